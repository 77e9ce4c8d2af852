"""ALiBi: slopes, and the bias in the kernel against its dense definition."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.covering import all_pairs
from torch import Tensor
from torch.testing import assert_close
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from elongate.context.attention.attention import Pattern
from elongate.context.attention.full import Full
from elongate.context.attention.global_local import GlobalLocalPattern
from elongate.context.attention.kernel import definition, fused, operators
from elongate.context.attention.kernel import layout as layouts
from elongate.context.attention.kernel.attend import attend
from elongate.context.attention.kernel.interface import Scores, _Attend
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.kernel.verification import verify_attention
from elongate.context.attention.shifted import ShiftedPattern
from elongate.context.attention.window import WindowPattern
from elongate.context.position.alibi import Alibi

# -- slopes ----------------------------------------------------------------------------------------------------------


def test_slopes_by_hand() -> None:
    assert Alibi().slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert Alibi().slopes(6).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert Alibi().slopes(1).tolist() == [1 / 256]


def test_slopes_equal_those_of_bloom_and_mpt() -> None:
    for heads in (*range(1, 34), 40, 64, 71, 96):
        bloom = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32)[:, 0]
        mpt = build_mpt_alibi_tensor(heads, 9)[:, 0]
        for theirs in (bloom, mpt):
            difference = (theirs[:, 1] - theirs[:, 0]).numpy()
            np.testing.assert_allclose(difference, Alibi().slopes(heads), rtol=3e-6, err_msg=f"{heads} heads")


# -- the kernel ------------------------------------------------------------------------------------------------------

PATTERNS: dict[str, Pattern] = {
    "full": Full(),
    "window": WindowPattern(7),
    "wide window": WindowPattern(40),
    "global_local": GlobalLocalPattern(num_global=3, window_length=5),
    "shifted": ShiftedPattern(10),
}


class _InDimensions:
    """The computation for operators that take no mask, with the operator of the CPU."""

    @staticmethod
    def forward(q: Any, k: Any, v: Any, causal: bool, scale: float, bias: Any) -> Any:
        return fused.BiasInDimensions(fused.FlashCpu, bias, scale).forward(q, k, v, causal)

    @staticmethod
    def backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, causal: bool, scale: float, bias: Any) -> Any:
        return fused.BiasInDimensions(fused.FlashCpu, bias, scale).backward(grad, q, k, v, out, lse, causal)


WAYS: dict[str, Any] = {"fused": None, "in dimensions": _InDimensions, "definition": definition.Definition}


@pytest.fixture(autouse=True)
def short_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes strips so short that a short sequence has several."""
    monkeypatch.setattr(layouts, "_CPU_STRIP", 11)


def use(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if WAYS[way] is not None:
        monkeypatch.setattr(operators, "_operator", lambda *_: WAYS[way])


def seen_pairs(chosen: Pattern, positions: Tensor, heads: int, causal: bool) -> Tensor:
    """Rows × heads × queries × keys, document by document, from the regions (which have their own tests)."""
    rows, length = positions.shape
    seen = torch.zeros(rows, heads, length, length, dtype=torch.bool)
    for row, at in enumerate(positions):
        starts = [0, *(t for t in range(1, length) if at[t] <= at[t - 1]), length]
        for first, last in pairwise(starts):
            for region in chosen.regions(last - first, heads, causal):
                for block in region.blocks:
                    (q, q_stop), (k, k_stop) = block.queries, block.keys
                    half = torch.ones(q_stop - q, k_stop - k, dtype=torch.bool)
                    half = {"all": half, "lower": half.tril(), "upper": half.triu()}[block.shape]
                    own = slice(*(region.heads or (0, heads)))
                    seen[row, own, first + q : first + q_stop, first + k : first + k_stop] |= half
    return seen


def dense(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, positions: Tensor, seen: Tensor, scale: float) -> Tensor:
    """softmax(Q Kᵀ · scale - slope · |i - j|) V."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    distances = (positions[:, None, :, None] - positions[:, None, None]).abs()
    scores = q @ k.mT * scale - slopes[:, None, None] * distances
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def packed(*rows: list[int]) -> Tensor:
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])


POSITIONS: dict[str, Tensor | None] = {
    "one document": None,
    "documents": packed([1, 8, 28], [8, 29]),
    "sampled": torch.stack([torch.randperm(5000, generator=torch.Generator().manual_seed(i))[:37].sort().values for i in (0, 1)]),
}


def compare(
    chosen: Pattern,
    causal: bool,
    given: Tensor | None,
    dtype: torch.dtype,
    heads: int = 6,
    kv_heads: int = 3,
    length: int = 37,
    batch: int = 2,
) -> list[float]:
    """Largest errors of output and gradients against the definition in float64 on the same numbers."""
    draw = torch.Generator().manual_seed(length)
    q = torch.randn(batch, heads, length, 8, generator=draw).to(dtype)
    k, v = (torch.randn(batch, kv_heads, length, 8, generator=draw).to(dtype) for _ in range(2))
    grad = torch.randn(batch, heads, length, 8, generator=draw).to(dtype)
    slopes = torch.from_numpy(Alibi().slopes(heads))
    positions = torch.arange(length).expand(batch, length) if given is None else given
    scale = 0.3

    exact = [x.double().requires_grad_() for x in (q, k, v)]
    expected = dense(*exact, slopes, positions, seen_pairs(chosen, positions, heads, causal), scale)
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    ours = [x.clone().requires_grad_() for x in (q, k, v)]
    regions = Layout.for_batch(chosen, (batch, length), given, None, slopes).batched_regions(heads, causal, None)
    out = _Attend.apply(*ours, None, regions, Scores(scale, None, None), None)[0]
    found = [out, *torch.autograd.grad(out, ours, grad)]
    return [(a.double() - b).abs().max().item() for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize(("word", "causal", "given", "way"), all_pairs([*PATTERNS], [True, False], [*POSITIONS], [*WAYS]))
def test_the_bias_equals_its_definition(word: str, causal: bool, given: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(way, monkeypatch)
    # Slopes in two parts of float64, and distances in digits, are exact too.
    assert max(compare(PATTERNS[word], causal, POSITIONS[given], torch.float64)) < 1e-12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (4, 4), (8, 2), (12, 4)])
def test_heads_that_share_keys_keep_their_own_slopes(heads: int, kv_heads: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(way, monkeypatch)
    for causal in (True, False):
        assert max(compare(Full(), causal, None, torch.float64, heads, kv_heads)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "symmetric"])
def test_float32_is_exact_at_large_distances(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steepest slope is 1/2: counted from the first of 768 tokens, the bias would reach 384 and be off by 3e-5."""
    monkeypatch.setattr(layouts, "_CPU_STRIP", 256)
    assert max(compare(Full(), causal, None, torch.float32, 8, 2, 768, batch=1)) < 1.5e-5


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("heads", [12, pytest.param(8, marks=pytest.mark.grid)])
def test_bfloat16_is_no_less_precise_with_a_bias(heads: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of more than 8 bits, and with 12 heads slopes that are not powers of two."""
    use(way, monkeypatch)
    monkeypatch.setattr(layouts, "_CPU_STRIP", 8192)
    biased = compare(Full(), True, None, torch.bfloat16, heads, 4, 300, batch=1)
    monkeypatch.setattr(Alibi, "slopes", lambda self, heads: np.full(heads, 1e-30))
    plain = compare(Full(), True, None, torch.bfloat16, heads, 4, 300, batch=1)
    assert max(biased) < 2 * max(plain)


@pytest.mark.slow
@pytest.mark.parametrize(("word", "given", "size"), all_pairs([*PATTERNS], [*POSITIONS], [1, 7, 31]))
def test_chunks_equal_the_whole(word: str, given: str, size: int) -> None:
    length, heads = 37, 6
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, length, 8, generator=draw, dtype=torch.float64)
    k, v = (torch.randn(2, 2, length, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    layout = Layout.for_batch(PATTERNS[word], (2, length), POSITIONS[given], None, torch.from_numpy(Alibi().slopes(heads)))
    whole, lse = attend(q, k, v, layout.batched_regions(heads, True, None), 0.3)
    for start in range(0, length, size):
        stop = min(start + size, length)
        regions = layout.for_chunk((start, stop), None).batched_regions(heads, True, None)
        out, sums = attend(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], regions, 0.3)
        assert_close(out, whole[:, :, start:stop], rtol=0, atol=1e-12)
        assert_close(sums, lse[:, :, start:stop], rtol=0, atol=1e-12)


def test_a_layer_keeps_its_own_window_and_has_the_bias() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 37, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    slopes, positions = torch.from_numpy(Alibi().slopes(4)), torch.arange(37).expand(2, 37)
    for causal in (True, False):
        out, _ = attend(q, k, v, Layout.for_batch(Full(), (2, 37), None, None, slopes).batched_regions(4, causal, 6), 0.3)
        seen = seen_pairs(WindowPattern(6), positions, 4, causal)
        assert_close(out, dense(q, k, v, slopes, positions, seen, 0.3), rtol=0, atol=1e-12)


def test_verification_notices_a_missing_bias() -> None:
    slopes = torch.from_numpy(Alibi().slopes(4))
    layout = Layout.for_batch(Full(), (1, 50), None, None, slopes)
    assert verify_attention(layout, 4, 2, 8, True, torch.device("cpu"))["output_error"] < 1e-5

    class Deaf(Layout):
        def for_chunk(self, *given: Any) -> Layout:
            return Layout.for_batch(Full(), (1, 50), None, None).for_chunk(*given)

    deaf = Deaf(**{name: getattr(layout, name) for name in ("pattern", "length", "documents", "chunk", "positions", "slopes")})
    with pytest.raises(AssertionError, match="attention full is not active: the kernel differs from its definition by"):
        verify_attention(deaf, 4, 2, 8, True, torch.device("cpu"))
