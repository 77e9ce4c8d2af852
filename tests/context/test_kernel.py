"""Blocks merged by their log-sum-exp against one dense softmax in float64, and its gradients by autograd."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from elongate.context.attention.kernel import definition
from elongate.context.attention.kernel.attend import BatchedRegion, Rotation, attend, attend_backward, sink_gradient
from elongate.context.attention.kernel.blocks import Block

KERNEL = "elongate.context.attention.kernel"
WAYS: dict[str, dict[str, Any]] = {
    "fused": {},
    "not folded": {"operators._FOLD_BELOW": 0},
    "definition": {"operators._operator": lambda *_: definition.Definition, "definition.QUERIES_AT_ONCE": 3},
    "definition, not folded": {
        "operators._operator": lambda *_: definition.Definition,
        "definition.QUERIES_AT_ONCE": 3,
        "operators._FOLD_BELOW": 0,
    },
}
seeds = some.integers(0, 2**32 - 1)


@dataclass
class Case:
    """Random tensors and regions, with the rotations that the dense definition applies for each region."""

    q: Tensor
    k: Tensor
    v: Tensor
    parts: list[BatchedRegion]
    turns: list[tuple[Turn, Turn]]  # of queries and keys
    scale: float
    softcap: float | None = None
    sink: Tensor | None = None

    @classmethod
    def drawn(cls, seed: int, dtype: torch.dtype = torch.float64) -> Case:
        """Heads are split anywhere, also between heads that share keys. A chunk of queries may see more keys than it has queries."""
        draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
        batch, kv_heads, group, dim = draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 4), draw.randint(1, 9)
        num_queries, num_keys, heads = draw.choice([1, 2, 5, 17]), draw.choice([1, 3, 8, 21]), kv_heads * group
        q = torch.randn(batch, heads, num_queries, dim, generator=numbers).to(dtype)
        k, v = (torch.randn(batch, kv_heads, num_keys, dim, generator=numbers).to(dtype) for _ in range(2))
        cuts = [0, *sorted(draw.sample(range(1, heads), draw.randint(0, min(2, heads - 1)))), heads]
        parts, turns = [], []
        for start, stop in pairwise(cuts):
            number = draw.randint(1, 3)
            rows = [_dealt(draw, num_queries, num_keys, number) for _ in range(draw.choice([1, batch]))]
            for i in range(number):
                turn = Turn.drawn(draw, numbers, batch, num_queries, dim), Turn.drawn(draw, numbers, batch, num_keys, dim)
                found = [row[i] for row in rows]
                parts.append(
                    BatchedRegion(found, None if (start, stop) == (0, heads) else (start, stop), turn[0].rotation, turn[1].rotation)
                )
                turns.append(turn)
        scale, softcap = draw.choice([dim**-0.5, 1.0, 0.1]), draw.choice([None, None, 0.7])
        sink = torch.randn(heads, generator=numbers, dtype=torch.float64) if draw.random() < 0.5 else None
        return cls(q, k, v, parts, turns, scale, softcap, sink)

    def dense(self, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
        """The definition: one softmax over the whole score matrix, with the sink as one more column."""
        heads = q.shape[1]
        k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
        scores = torch.full((*q.shape[:3], k.shape[2]), -torch.inf, dtype=torch.float64)
        for part, (turn_q, turn_k) in zip(self.parts, self.turns, strict=True):
            products = turn_q(q) @ turn_k(k).mT * self.scale
            if self.softcap is not None:
                products = self.softcap * (products / self.softcap).tanh()
            seen = torch.zeros(scores.shape, dtype=torch.bool)
            rows = part.rows if len(part.rows) > 1 else list(part.rows) * len(q)
            for row, blocks in enumerate(rows):
                for block in blocks:
                    (q0, q1), (k0, k1) = block.queries, block.keys
                    half = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
                    half = {"all": half, "lower": half.tril(), "upper": half.triu()}[block.shape]
                    seen[row, slice(*(part.heads or (0, heads))), q0:q1, k0:k1] |= half
            scores = torch.where(seen, products, scores)
        if sink is not None:
            scores = torch.cat([scores, sink[:, None, None].expand(*scores.shape[:-1], 1)], dim=-1)
            v = torch.cat([v, torch.zeros_like(v[:, :, :1])], dim=2)
        return scores.softmax(-1) @ v, scores.logsumexp(-1)


def _dealt(draw: random.Random, num_queries: int, num_keys: int, number: int) -> list[list[Block]]:
    """The score matrix cut into blocks that do not overlap and are distributed to several parts. Some blocks are left out."""
    dealt: list[list[Block]] = [[] for _ in range(number)]
    found = list(_cut(draw, (0, num_queries), (0, num_keys)))
    # Every query sees at least one key.
    blind = set(range(num_queries)).difference(*(range(*block.queries) for block in found))
    for block in [*found, *(Block((query, query + 1), (0, num_keys)) for query in blind)]:
        dealt[draw.randrange(number)].append(block)
    for blocks in dealt:
        draw.shuffle(blocks)
    return dealt


def _cut(draw: random.Random, queries: tuple[int, int], keys: tuple[int, int]) -> Iterator[Block]:
    rows, columns = queries[1] - queries[0], keys[1] - keys[0]
    if draw.random() < 0.1:
        return
    if rows == columns and draw.random() < 0.6:
        yield Block(queries, keys, draw.choice(["lower", "upper"]))
    elif max(rows, columns) == 1 or draw.random() < 0.25:
        yield Block(queries, keys)
    elif columns == 1 or (rows > 1 and draw.random() < 0.5):
        # Often at the start of a square.
        middle = queries[0] + (columns if columns < rows and draw.random() < 0.5 else draw.randint(1, rows - 1))
        yield from _cut(draw, (queries[0], middle), keys)
        yield from _cut(draw, (middle, queries[1]), keys)
    else:
        middle = keys[0] + (rows if rows < columns and draw.random() < 0.5 else draw.randint(1, columns - 1))
        yield from _cut(draw, queries, (keys[0], middle))
        yield from _cut(draw, queries, (middle, keys[1]))


@dataclass
class Turn:
    """A rotation or None, and the same rotation by transformers."""

    rotation: Rotation | None
    cosine: Tensor
    sine: Tensor
    scale: Tensor

    @classmethod
    def drawn(cls, draw: random.Random, numbers: torch.Generator, batch: int, length: int, dim: int) -> Turn:
        positions = torch.randint(0, 50, (draw.choice([1, batch]), length), generator=numbers)
        frequencies = torch.rand(draw.randint(0, dim // 2), generator=numbers, dtype=torch.float64)
        scale = torch.rand(positions.shape, generator=numbers, dtype=torch.float64) + 0.5 if draw.random() < 0.5 else None
        angles = (positions[..., None] * frequencies).repeat(1, 1, 2)
        turned = bool(len(frequencies)) and draw.random() < 0.7
        factor = torch.ones(1, length, dtype=torch.float64) if scale is None or not turned else scale
        rotation = Rotation.from_positions(positions, frequencies, scale) if turned else None
        return cls(rotation, angles.cos(), angles.sin(), factor)

    @classmethod
    def none(cls, length: int) -> Turn:
        return cls(None, *(torch.ones(1, length) for _ in range(3)))

    def __call__(self, x: Tensor) -> Tensor:
        if self.rotation is None:
            return x
        count = self.cosine.shape[-1]
        turned, _ = apply_rotary_pos_emb(x[..., :count], x[..., :count], self.cosine, self.sine)
        return torch.cat([turned, x[..., count:]], dim=-1) * self.scale[:, None, :, None]


def compare(case: Case, tolerance: float) -> None:
    """Checks output, log-sum-exp and the gradients; those of keys and values are added to existing ones.

    Errors are relative to the norm if it is above 1.
    """
    leaves = [x.double().clone().requires_grad_() for x in (case.q, case.k, case.v)]
    sinks = [] if case.sink is None else [case.sink.clone().requires_grad_()]
    expected, expected_lse = case.dense(*leaves, *sinks or [None])
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(case.q.dtype)
    gradients = torch.autograd.grad(expected, [*leaves, *sinks], grad.double())

    out, lse = attend(case.q, case.k, case.v, case.parts, case.scale, case.softcap, case.sink)
    wide = torch.promote_types(case.q.dtype, torch.float32)
    grad_k, grad_v = (torch.full(x.shape, 2.0, dtype=wide) for x in (case.k, case.v))
    grad_q = attend_backward(grad, case.q, case.k, case.v, case.parts, case.scale, out, lse, grad_k, grad_v, case.softcap)
    grad_sinks = [sink_gradient(grad, out, lse, sink) for sink in sinks]
    assert out.dtype == grad_q.dtype == case.q.dtype
    for found, wanted in (
        (out, expected),
        (lse, expected_lse),
        *zip((grad_q, grad_k - 2, grad_v - 2, *grad_sinks), gradients, strict=True),
    ):
        error = (found - wanted).norm() / wanted.norm().clamp(min=1)
        assert error < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=12)
@given(seed=seeds)
def test_any_blocks_equal_a_dense_softmax(way: str, seed: int) -> None:
    compare_with_dense(way, seed)


@pytest.mark.grid
@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=100)
@given(seed=seeds)
def test_many_blocks_equal_a_dense_softmax(way: str, seed: int) -> None:
    compare_with_dense(way, seed)


def compare_with_dense(way: str, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WAYS[way].items():
            patch.setattr(f"{KERNEL}.{name}", value)
        compare(Case.drawn(seed), 1e-11)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(2))
def test_bfloat16_is_exact_to_its_precision(way: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setattr(f"{KERNEL}.{name}", value)
    # The operators keep scores in float32; the definition rounds them to bfloat16, like transformers' eager attention.
    compare(Case.drawn(seed, torch.bfloat16), 6e-2 if "definition" in way else 3e-2)


def test_the_comparison_notices_one_missing_pair() -> None:
    q = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    case = Case(q, q, q, [BatchedRegion([[Block((0, 5), (0, 5), "lower")]])], [(Turn.none(5), Turn.none(5))], 0.5)
    compare(case, 1e-12)
    out, lse = attend(q, q, q, case.parts, 0.5)
    short = [BatchedRegion([[Block((0, 4), (0, 4), "lower"), Block((4, 5), (0, 4))]])]
    assert (attend(q, q, q, short, 0.5)[0] - out).abs().max() > 1e-3
    assert (attend(q, q, q, short, 0.5)[1] - lse)[:, :, :4].abs().max() < 1e-12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dim", [1, 2, 6, 8, 80, 256, 288])
def test_heads_of_every_size_equal_a_dense_softmax(way: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setattr(f"{KERNEL}.{name}", value)
    draw = torch.Generator().manual_seed(dim)
    q = torch.randn(2, 6, 7, dim, generator=draw, dtype=torch.float64)
    k, v = (torch.randn(2, 3, 7, dim, generator=draw, dtype=torch.float64) for _ in range(2))
    compare(Case(q, k, v, [BatchedRegion([[Block((0, 7), (0, 7), "lower")]])], [(Turn.none(7), Turn.none(7))], dim**-0.5), 1e-11)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value_dim", [1, 5, 12])
def test_values_may_be_narrower_than_keys(way: str, value_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latent attention of DeepSeek has such values."""
    for name, value in WAYS[way].items():
        monkeypatch.setattr(f"{KERNEL}.{name}", value)
    draw = torch.Generator().manual_seed(value_dim)
    q, k = torch.randn(2, 6, 7, 8, generator=draw, dtype=torch.float64), torch.randn(2, 3, 9, 8, generator=draw, dtype=torch.float64)
    v = torch.randn(2, 3, 9, value_dim, generator=draw, dtype=torch.float64)
    parts = [BatchedRegion([[Block((0, 7), (2, 9), "upper"), Block((0, 7), (0, 2))]])]
    compare(Case(q, k, v, parts, [(Turn.none(7), Turn.none(9))], 0.3), 1e-11)


@pytest.mark.parametrize("way", WAYS)
def test_scores_far_apart_are_merged_without_overflow(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-sum-exps of the blocks differ by hundreds, the larger first and last."""
    for name, value in WAYS[way].items():
        monkeypatch.setattr(f"{KERNEL}.{name}", value)
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 8, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    k[:, :, :2] *= 500
    k[:, :, 6:] *= 500
    blocks = [Block((0, 8), (start, start + 2)) for start in (0, 2, 4, 6)]
    compare(Case(q, k, v, [BatchedRegion([blocks])], [(Turn.none(8), Turn.none(8))], 1.0), 1e-9)


def test_results_do_not_depend_on_strides() -> None:
    """Like the tensors of transformers: heads are slices of a row of dimensions, keys of a longer store."""
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 9, 4, 8, generator=draw, dtype=torch.float64).transpose(1, 2)
    k = torch.randn(2, 2, 20, 8, generator=draw, dtype=torch.float64)[:, :, :9]
    v = torch.randn(2, 9, 2, 24, generator=draw, dtype=torch.float64)[..., 8:16].transpose(1, 2)
    blocks = [Block((0, 9), (0, 9), "upper"), Block((4, 9), (0, 4))]
    compare(
        Case(
            q,
            k,
            v,
            [BatchedRegion([blocks], (1, 3)), BatchedRegion([blocks], (0, 1)), BatchedRegion([blocks], (3, 4))],
            [(Turn.none(9),) * 2] * 3,
            0.3,
        ),
        1e-11,
    )


# -- rotations -------------------------------------------------------------------------------------------------------


@given(seed=seeds, length=some.integers(1, 9), dim=some.integers(2, 12))
def test_a_rotation_equals_that_of_transformers_and_can_be_transposed(seed: int, length: int, dim: int) -> None:
    draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    turn = Turn.drawn(draw, numbers, 2, length, dim)
    if turn.rotation is None:
        return
    x, y = (torch.randn(2, 3, length, dim, generator=numbers, dtype=torch.float64) for _ in range(2))
    assert_close(turn.rotation.apply(x), turn(x), rtol=0, atol=1e-12)
    assert_close((turn.rotation.apply(x) * y).sum(), (x * turn.rotation.apply(y, transposed=True)).sum())
    at = slice(length // 2, None)
    assert_close(turn.rotation[slice(1, 2), at].apply(x[1:2, :, at]), turn(x)[1:2, :, at], rtol=0, atol=1e-12)


def test_angles_are_exact_at_large_positions_in_bfloat16() -> None:
    positions, frequencies = torch.tensor([[100_003, 131_071]]), 10_000 ** -torch.arange(0, 1, 0.25)
    x = torch.randn(1, 1, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = Rotation.from_positions(positions, frequencies.double()).apply(x.double())
    assert_close(Rotation.from_positions(positions, frequencies).apply(x).double(), expected, rtol=1e-2, atol=2e-2)
