"""ALiBi: slopes, the bias in the kernel against its dense definition, and models whose own positions are off."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks import GPT2, GPT2_DROPOUT, VOCAB, network
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, MptConfig, MptForCausalLM
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from elongate.context.attention.attention import Attention
from elongate.context.attention.full import Full
from elongate.context.attention.global_local import GlobalLocal
from elongate.context.attention.kernel import layout as layouts
from elongate.context.attention.kernel import operators
from elongate.context.attention.kernel.attend import attend
from elongate.context.attention.kernel.interface import IMPLEMENTATION, _Attend
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.kernel.verification import prove
from elongate.context.attention.shifted import Groups
from elongate.context.attention.window import Window
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.alibi import Alibi
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.compatibility import check_strategy
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example
from elongate.scoring.left_to_right import LeftToRight

LENGTH = 36
TOKENS = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))
KINDS = ["llama-2", "qwen3", "gpt2", "gpt_neox", "mistral", "gemma3", "bert", "modernbert"]

# -- slopes ----------------------------------------------------------------------------------------------------------


def test_slopes_by_hand() -> None:
    assert Alibi().slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert Alibi().slopes(6).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert Alibi().slopes(1).tolist() == [1 / 256]


@pytest.mark.parametrize("heads", [*range(1, 34), 40, 64, 71, 96])
def test_slopes_are_those_of_bloom_and_mpt(heads: int) -> None:
    bloom = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32)[:, 0]
    mpt = build_mpt_alibi_tensor(heads, 9)[:, 0]
    for theirs in (bloom, mpt):
        np.testing.assert_allclose((theirs[:, 1] - theirs[:, 0]).numpy(), Alibi().slopes(heads), rtol=3e-6)


# -- the kernel ------------------------------------------------------------------------------------------------------

ATTENTIONS: dict[str, Attention] = {
    "full": Full(),
    "window": Window(window_length=7),
    "wide window": Window(window_length=40),
    "global_local": GlobalLocal(num_global=3, window_length=5),
    "shifted": Groups(10),
}


class _InFurtherDimensions:
    """What runs where the operator takes no mask, on the operator of the CPU."""

    @staticmethod
    def forward(q: Any, k: Any, v: Any, causal: bool, scale: float, bias: Any) -> Any:
        return operators._Widened(operators._FlashCpu, bias, scale).forward(q, k, v, causal)

    @staticmethod
    def backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, causal: bool, scale: float, bias: Any) -> Any:
        return operators._Widened(operators._FlashCpu, bias, scale).backward(grad, q, k, v, out, lse, causal)


WAYS: dict[str, Any] = {"fused": None, "in further dimensions": _InFurtherDimensions, "without operators": operators._Plain}
way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def short_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several of them in what is short enough for a test."""
    monkeypatch.setattr(layouts, "_STRIP", 11)


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if WAYS[way] is not None:
        monkeypatch.setattr(operators, "_operator", lambda *_: WAYS[way])


def seen_pairs(chosen: Attention, positions: Tensor, heads: int, causal: bool) -> Tensor:
    """Rows × heads × queries × keys: by the regions, whose own tests say that they are right, document by document."""
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
    chosen: Attention, causal: bool, given: Tensor | None, dtype: torch.dtype, heads: int = 6, kv_heads: int = 3, length: int = 37
) -> list[float]:
    """How far output and gradients are from the definition in float64 on the same numbers, largest entry."""
    draw = torch.Generator().manual_seed(length)
    q = torch.randn(2, heads, length, 8, generator=draw).to(dtype)
    k, v = (torch.randn(2, kv_heads, length, 8, generator=draw).to(dtype) for _ in range(2))
    grad = torch.randn(2, heads, length, 8, generator=draw).to(dtype)
    slopes = torch.from_numpy(Alibi().slopes(heads))
    positions = torch.arange(length).expand(2, length) if given is None else given
    scale = 0.3

    exact = [x.double().requires_grad_() for x in (q, k, v)]
    expected = dense(*exact, slopes, positions, seen_pairs(chosen, positions, heads, causal), scale)
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    ours = [x.clone().requires_grad_() for x in (q, k, v)]
    parts = Layout.of(chosen, (2, length), given, None, slopes).parts(heads, causal, None)
    out = _Attend.apply(*ours, parts, scale, None)[0]
    found = [out, *torch.autograd.grad(out, ours, grad)]
    return [(a.double() - b).abs().max().item() for a, b in zip(found, wanted, strict=True)]


@way
@pytest.mark.parametrize("given", POSITIONS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "symmetric"])
@pytest.mark.parametrize("word", ATTENTIONS)
def test_the_bias_is_that_of_the_definition(word: str, causal: bool, given: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take(way, monkeypatch)
    # Slopes in two parts of float64, and distances in digits, lose nothing either.
    assert max(compare(ATTENTIONS[word], causal, POSITIONS[given], torch.float64)) < 1e-12


@way
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (4, 4), (8, 2), (12, 4)])
def test_heads_that_share_keys_keep_their_own_slopes(heads: int, kv_heads: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take(way, monkeypatch)
    for causal in (True, False):
        assert max(compare(Full(), causal, None, torch.float64, heads, kv_heads)) < 1e-12


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "symmetric"])
def test_in_float32_far_out(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steepest head has 1/2: at 1500 tokens its numbers would be 750, and off by 6e-5, if they were counted from the first token."""
    monkeypatch.setattr(layouts, "_STRIP", 256)
    assert max(compare(Full(), causal, None, torch.float32, 8, 2, 1500)) < 2e-5


@way
@pytest.mark.parametrize("heads", [8, 12])
def test_in_bfloat16_to_its_precision(heads: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of more than 8 bits and slopes that are no powers of two are rounded to no more than the rest."""
    take(way, monkeypatch)
    monkeypatch.setattr(layouts, "_STRIP", 8192)
    biased = compare(Full(), True, None, torch.bfloat16, heads, 4, 600)
    monkeypatch.setattr(Alibi, "slopes", lambda self, heads: np.full(heads, 1e-30))
    plain = compare(Full(), True, None, torch.bfloat16, heads, 4, 600)
    assert max(biased) < 2 * max(plain)


@pytest.mark.parametrize("given", POSITIONS)
def test_chunks_are_the_whole(given: str) -> None:
    length, heads = 37, 6
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, length, 8, generator=draw, dtype=torch.float64)
    k, v = (torch.randn(2, 2, length, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    for chosen in ATTENTIONS.values():
        layout = Layout.of(chosen, (2, length), POSITIONS[given], None, torch.from_numpy(Alibi().slopes(heads)))
        whole, lse = attend(q, k, v, layout.parts(heads, True, None), 0.3)
        for size in (1, 7, 13, 31):
            for start in range(0, length, size):
                stop = min(start + size, length)
                parts = layout.at((start, stop), None).parts(heads, True, None)
                out, sums = attend(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], parts, 0.3)
                assert_close(out, whole[:, :, start:stop], rtol=0, atol=1e-12)
                assert_close(sums, lse[:, :, start:stop], rtol=0, atol=1e-12)


def test_a_layer_with_a_window_of_its_own_keeps_it_and_has_the_bias() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 37, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    slopes, positions = torch.from_numpy(Alibi().slopes(4)), torch.arange(37).expand(2, 37)
    for causal in (True, False):
        out, _ = attend(q, k, v, Layout.of(Full(), (2, 37), None, None, slopes).parts(4, causal, 6), 0.3)
        seen = seen_pairs(Window(window_length=6), positions, 4, causal)
        assert_close(out, dense(q, k, v, slopes, positions, seen, 0.3), rtol=0, atol=1e-12)


def test_the_proof_notices_a_bias_that_is_not_on() -> None:
    slopes = torch.from_numpy(Alibi().slopes(4))
    layout = Layout.of(Full(), (1, 50), None, None, slopes)
    assert prove(layout, 4, 2, 8, True, torch.device("cpu"))["output_error"] < 1e-5

    class Deaf(Layout):
        def at(self, *given: Any) -> Layout:
            return Layout.of(Full(), (1, 50), None, None).at(*given)

    deaf = Deaf(**{name: getattr(layout, name) for name in ("attention", "length", "documents", "chunk", "positions", "slopes")})
    with pytest.raises(AssertionError, match="full is not on: the kernel is off its definition by"):
        prove(deaf, 4, 2, 8, True, torch.device("cpu"))


# -- models ----------------------------------------------------------------------------------------------------------


def strategy(attention: Attention | None = None, length: int = LENGTH) -> Strategy:
    return Strategy(position=Alibi(), attention=attention or Full(), curriculum=Fixed(), target_length=length)


def biased(kind: str, attention: Attention | None = None, dtype: torch.dtype = torch.float64, **fields: Any) -> LanguageModel:
    model = LanguageModel(network(kind, IMPLEMENTATION, dtype, **fields).eval(), kind)
    model.extend(strategy(attention), LENGTH, LENGTH)
    return model


def hidden(model: LanguageModel, positions: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model.hidden(TOKENS, positions)


@pytest.mark.parametrize("positions", [None, packed([1, 8, 27], [8, 28])], ids=["one document", "documents"])
@pytest.mark.parametrize("kind", ["llama-1", "llama-2", "llama-8", "qwen3", "gpt2", "gpt_neox", "bert"])
def test_models_compute_what_transformers_does_with_a_dense_mask(kind: str, positions: Tensor | None) -> None:
    """sdpa with the bias as its mask; positions 0 turn nothing, and a table of zeros adds nothing."""
    ours, theirs = biased(kind), network(kind, "sdpa").eval()
    heads, causal = theirs.config.num_attention_heads, "causal" in ours.has
    here = torch.arange(LENGTH).expand(2, LENGTH) if positions is None else positions
    distances = (here[:, None, :, None] - here[:, None, None]).abs()
    mask = -torch.from_numpy(Alibi().slopes(heads))[:, None, None] * distances
    mask = mask.masked_fill(~seen_pairs(Full(), here, heads, causal), -torch.inf)
    for name, parameter in theirs.named_parameters():
        if "wpe" in name or "position_embeddings" in name:
            nn.init.zeros_(parameter)
    with torch.no_grad():
        expected = theirs.base_model(input_ids=TOKENS, position_ids=torch.zeros_like(TOKENS), attention_mask=mask).last_hidden_state
    assert_close(hidden(ours, positions), expected, rtol=0, atol=1e-9)


def test_logits_are_those_of_mpt() -> None:
    """Its weights in a GPT-2 of ours: both have layer norms, one matrix for queries, keys and values, and an MLP of two matrices."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": 64, "expansion_ratio": 2}
    mpt = MptForCausalLM(MptConfig(**sizes)).double().eval()
    gpt2 = GPT2LMHeadModel(
        GPT2Config(**GPT2 | GPT2_DROPOUT | {"n_embd": 48, "n_head": 6, "n_inner": 192, "activation_function": "gelu"}),
    ).double()
    gpt2.set_attn_implementation(IMPLEMENTATION)
    with torch.no_grad():
        for parameter in mpt.parameters():
            parameter.normal_(std=0.3)
        for name, parameter in gpt2.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        gpt2.transformer.wte.weight.copy_(mpt.transformer.wte.weight)
        gpt2.transformer.ln_f.weight.copy_(mpt.transformer.norm_f.weight)
        for ours, theirs in zip(gpt2.transformer.h, mpt.transformer.blocks, strict=True):
            for norm, given in ((ours.ln_1, theirs.norm_1), (ours.ln_2, theirs.norm_2)):
                norm.weight.copy_(given.weight)
            for matrix, given in (
                (ours.attn.c_attn, theirs.attn.Wqkv),
                (ours.attn.c_proj, theirs.attn.out_proj),
                (ours.mlp.c_fc, theirs.ffn.up_proj),
                (ours.mlp.c_proj, theirs.ffn.down_proj),
            ):
                matrix.weight.copy_(given.weight.T)
        model = LanguageModel(gpt2.eval(), "gpt2")
        model.extend(strategy(), 64, 64)
        found = nn.functional.linear(model.hidden(TOKENS), *model.head)
        # MPT computes its softmax in float32.
        assert_close(found, mpt(input_ids=TOKENS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_common_shift_of_all_positions_changes_nothing(kind: str) -> None:
    model = biased(kind)
    positions = torch.arange(LENGTH).expand(2, LENGTH)
    assert_close(hidden(model, positions + 100_003), hidden(model, positions), rtol=0, atol=0)
    assert_close(hidden(model, positions), hidden(model), rtol=0, atol=0)
    assert (hidden(model, 2 * positions) - hidden(model)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["llama-2", "gpt_neox", "mistral", "modernbert"])
def test_the_rotary_embedding_of_the_model_is_off(kind: str) -> None:
    def others(base: float) -> dict[str, Any]:
        plain = {"rope_type": "default", "rope_theta": base}
        return {"rope_parameters": {"full_attention": plain, "sliding_attention": plain} if kind == "modernbert" else plain}

    untouched = [hidden(LanguageModel(network(kind, IMPLEMENTATION, **others(base)).eval(), kind)) for base in (1e4, 10.0)]
    assert (untouched[1] - untouched[0]).abs().max() > 1e-3
    assert torch.equal(hidden(biased(kind, **others(10.0))), hidden(biased(kind, **others(1e4))))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_table_of_the_model_is_off_stays_off_and_ends_nowhere(kind: str) -> None:
    model = biased(kind)
    (name, table), *more = [(n, p) for n, p in model.network.named_parameters() if "wpe" in n or "position_embeddings" in n]
    assert not more
    assert not table.any()
    assert not any(p is table for p in model.parameters())
    assert model.last_position(10**6) == 10**6
    model.extend(strategy(length=200), LENGTH, 200)
    assert dict(model.network.named_parameters())[name].shape[0] == model.network.config.max_position_embeddings == 200
    with torch.no_grad():
        long = model.hidden(TOKENS[:1].repeat(1, 10))
    if kind == "gpt2":
        assert_close(long[:, :LENGTH], hidden(model)[:1], rtol=0, atol=1e-12)


def test_a_model_whose_positions_cannot_be_switched_off_is_refused() -> None:
    built = network("llama-2", IMPLEMENTATION)

    class Counting(nn.Module):
        """Rotates by the place in the batch, whatever positions it is told."""

        def __init__(self, rotary: nn.Module) -> None:
            super().__init__()
            self.rotary = rotary
            self.register_buffer("inv_freq", rotary.inv_freq)

        def forward(self, x: Tensor, position_ids: Tensor) -> Any:
            return self.rotary(x, torch.arange(x.shape[1]).expand_as(position_ids))

    built.model.rotary_emb = Counting(built.model.rotary_emb)
    model = LanguageModel(built, "llama")
    message = "context/position=alibi: cannot act on a llama, whose own positions cannot be switched off; name a checkpoint of another"
    with pytest.raises(ConfigError, match=message):
        check_strategy(model, strategy(), LENGTH)
    assert model.positions.slopes is None


PLANS: dict[str, Memory] = {
    "checkpoint": Checkpoint(),
    "checkpoint recomputed": Checkpoint(keep_attention=False, mlp_chunk_length=8),
    "stream 7": Stream(chunk_length=7),
    "stream 13 recomputed": Stream(chunk_length=13, keep_attention=False),
}


@pytest.mark.parametrize("attention", [Full(), Window(window_length=9)], ids=lambda attention: attention.word)
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["llama-2", "gpt2", "bert"])
def test_every_memory_gives_the_same_gradient(kind: str, plan: str, documents: bool, attention: Attention) -> None:
    if kind == "bert" and plan.startswith("stream"):
        return
    positions = packed([1, 8, 27], [8, 28]) if documents else None
    example = Example(TOKENS, TOKENS.roll(-1, 1), torch.ones_like(TOKENS, dtype=torch.bool), positions)

    def gradients(memory: Memory) -> tuple[float, list[Tensor]]:
        model = biased(kind, attention)
        loss = memory.prepare(model, LENGTH).backward(model, example)
        return loss, [p.grad for p in model.parameters() if p.grad is not None]

    (loss, found), (expected_loss, expected) = gradients(PLANS[plan]), gradients(Plain())
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    assert len(found) == len(expected) > 5
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-11 * max(1, theirs.norm())


@pytest.mark.parametrize("attention", [Full(), Window(window_length=9)], ids=lambda attention: attention.word)
def test_answers_are_read_with_the_bias(attention: Attention) -> None:
    model = biased("llama-2", attention)
    choices = np.array([[[3, 1, 4], [1, 5, 9]], [[2, 6, 5], [3, 5, 8]]])
    totals, greedy = LeftToRight().answers(model, TOKENS.numpy(), choices)
    for row in range(2):
        for choice in range(2):
            text = torch.cat([TOKENS[row], torch.from_numpy(choices[row, choice])])[None]
            losses = LeftToRight().losses(model, text.numpy(), LENGTH)[0, -3:]
            assert totals[row, choice] == pytest.approx(-losses.sum(), abs=1e-5)
    assert greedy.shape == (2, 2)
    model.positions.slopes = None
    without, _ = LeftToRight().answers(model, TOKENS.numpy(), choices)
    assert np.abs(without - totals).max() > 1e-2


# -- what cannot be had with it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["self_extend", "rerope", "dual_chunk", "sinks"])
def test_attentions_that_rotate_are_refused(word: str, build_tiny: Callable[..., Any]) -> None:
    message = f"context/attention={word}: needs rotary positions, which context/position=alibi switches off; use context/attention=window"
    with pytest.raises(ConfigError) as caught:
        build_tiny("context=alibi", f"context/attention={word}")
    assert str(caught.value) == message


def test_a_model_without_regions_is_refused() -> None:
    has = frozenset({"autoencoder", "rotary", "computed_positions"})
    with pytest.raises(ConfigError) as caught:
        strategy().check(has, LENGTH, "bidirectional_autoencoder")
    assert str(caught.value) == (
        "context/position=alibi: needs attention that goes through the interface of transformers, "
        "which model=bidirectional_autoencoder does not have; use context/position=yarn"
    )
