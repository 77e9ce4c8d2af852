"""Models with ALiBi: their own positions are switched off, and slopes act in every memory plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.context.test_alibi import packed, seen_pairs
from tests.covering import all_pairs, all_values
from tests.networks import GPT2, GPT2_DROPOUT, VOCAB, network
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, MptConfig, MptForCausalLM

from elongate.context.attention.attention import Attention
from elongate.context.attention.dual_chunk import DualChunk
from elongate.context.attention.full import Full
from elongate.context.attention.kernel import layout as layouts
from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.context.attention.rerope import ReRope
from elongate.context.attention.self_extend import SelfExtend
from elongate.context.attention.sinks import Sinks
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
from elongate.models.gpt import Gpt
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example
from elongate.scoring.left_to_right import LeftToRight

LENGTH = 36
TOKENS = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))
KINDS = ["llama-2", "qwen3", "gpt2", "gpt_neox", "mistral", "gemma3", "bert", "modernbert"]
ALIKE = ["qwen3", "gpt_neox", "mistral"]  # their positions and windows work like those of another kind


@pytest.fixture(autouse=True)
def short_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes strips so short that a short sequence has several."""
    monkeypatch.setattr(layouts, "_CPU_STRIP", 11)


def strategy(attention: Attention | None = None, length: int = LENGTH) -> Strategy:
    return Strategy(position=Alibi(), attention=attention or Full(), curriculum=Fixed(), target_length=length)


def biased(kind: str, attention: Attention | None = None, dtype: torch.dtype = torch.float64, **fields: Any) -> LanguageModel:
    model = LanguageModel(network(kind, IMPLEMENTATION, dtype, **fields).eval(), kind)
    model.extend(strategy(attention), LENGTH, LENGTH)
    return model


def hidden(model: LanguageModel, positions: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model.hidden(TOKENS, positions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "documents"), all_values(["llama-1", "llama-2", "llama-8", "qwen3", "gpt2", "gpt_neox", "bert"], [True, False])
)
def test_models_equal_transformers_with_a_dense_mask(kind: str, documents: bool) -> None:
    """sdpa with the bias as its mask; position 0 rotates nothing, and a table of zeros adds nothing."""
    positions = packed([1, 8, 27], [8, 28]) if documents else None
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


def test_logits_equal_those_of_mpt() -> None:
    """MPT's weights in a GPT-2 with ALiBi: both have layer norms, one matrix for queries, keys and values, and an MLP of two matrices."""
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
        found = model.logits(model.hidden(TOKENS))
        # MPT computes its softmax in float32.
        assert_close(found, mpt(input_ids=TOKENS).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.grid if kind in ALIKE else ()) for kind in KINDS])
def test_a_common_shift_of_all_positions_changes_nothing(kind: str) -> None:
    model = biased(kind)
    positions = torch.arange(LENGTH).expand(2, LENGTH)
    expected = hidden(model)
    for same in (positions, positions + 100_003):
        assert_close(hidden(model, same), expected, rtol=0, atol=0)
    assert (hidden(model, 2 * positions) - expected).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama-2", "gpt_neox", "mistral", "modernbert"])
def test_the_rotary_embedding_of_the_model_is_switched_off(kind: str) -> None:
    def others(base: float) -> dict[str, Any]:
        plain = {"rope_type": "default", "rope_theta": base}
        return {"rope_parameters": {"full_attention": plain, "sliding_attention": plain} if kind == "modernbert" else plain}

    untouched = [hidden(LanguageModel(network(kind, IMPLEMENTATION, **others(base)).eval(), kind)) for base in (1e4, 10.0)]
    assert (untouched[1] - untouched[0]).abs().max() > 1e-3
    assert torch.equal(hidden(biased(kind, **others(10.0))), hidden(biased(kind, **others(1e4))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_table_of_the_model_stays_zero_and_has_no_end(kind: str) -> None:
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
        """Rotates by the index in the row and ignores the given positions."""

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
    "stream": Stream(chunk_length=11),
    "stream recomputed": Stream(chunk_length=17, keep_attention=False),
}


def can_train(kind: str, plan: str, *_: Any) -> bool:
    return kind != "bert" or not plan.startswith("stream")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "plan", "documents", "attention"),
    all_pairs(["llama-2", "gpt2", "bert"], [*PLANS], [False, True], [Full(), Window(window_length=9)], allowed=can_train),
)
def test_every_memory_plan_gives_the_same_gradient(kind: str, plan: str, documents: bool, attention: Attention) -> None:
    positions = packed([1, 8, 27], [8, 28]) if documents else None
    example = Example(TOKENS, TOKENS.roll(-1, 1), torch.ones_like(TOKENS, dtype=torch.bool), positions)

    model = biased(kind, attention)

    def gradients(memory: Memory) -> tuple[float, list[Tensor]]:
        model.network.zero_grad()
        loss = memory.prepare(model, LENGTH).backward(model, example)
        return loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    (expected_loss, expected), (loss, found) = gradients(Plain()), gradients(PLANS[plan])
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    assert len(found) == len(expected) > 5
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-11 * max(1, theirs.norm())


@pytest.mark.parametrize("attention", [Full(), Window(window_length=9)], ids=lambda attention: attention.word)
def test_answers_are_scored_with_the_bias(attention: Attention) -> None:
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


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", [SelfExtend(), ReRope(), DualChunk(), Sinks()], ids=lambda attention: attention.word)
def test_attentions_that_rotate_are_refused(attention: Attention) -> None:
    with pytest.raises(ConfigError) as caught:
        strategy(attention).check(Gpt.has, LENGTH, "gpt")
    rule = "needs rotary positions, which context/position=alibi switches off"
    assert str(caught.value) == f"context/attention={attention.word}: {rule}; use context/attention=window"


def test_a_model_without_regions_is_refused() -> None:
    has = frozenset({"autoencoder", "rotary", "computed_positions"})
    with pytest.raises(ConfigError) as caught:
        strategy().check(has, LENGTH, "bidirectional_autoencoder")
    assert str(caught.value) == (
        "context/position=alibi: needs attention that goes through the interface of transformers, "
        "which model=bidirectional_autoencoder does not have; use context/position=yarn"
    )
