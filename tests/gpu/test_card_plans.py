"""Every memory plan on the card: loss and gradients of plain transformers; and of `memory=plain` for patterns that it lacks."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from elongate.context.attention.attention import Attention
from elongate.context.attention.dual_chunk import DualChunk
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.context.attention.sinks import Sinks
from elongate.context.attention.window import Window
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example

pytestmark = pytest.mark.gpu

VOCAB, ROWS, LENGTH = 4000, 2, 1536
PLANS: dict[str, Memory] = {
    "plain": Plain(),
    "checkpoint": Checkpoint(),
    "checkpoint recomputed": Checkpoint(keep_attention=False, mlp_chunk_length=500),
    "checkpoint but for two layers": Checkpoint(keep_layers=2, mlp_chunk_length=500),
    "checkpoint on the host": Checkpoint(offload="host"),
    "checkpoint recomputed on the host": Checkpoint(keep_attention=False, offload="host"),
    "stream": Stream(chunk_length=512),
    "stream, all layers at once": Stream(chunk_length=512, recompute=False),
    "stream 700": Stream(chunk_length=700),
    "stream recomputed": Stream(chunk_length=512, keep_attention=False),
    "stream on disk": Stream(chunk_length=512, on_disk=True),
}
PATTERNS: dict[str, Attention] = {
    "window": Window(window_length=300),
    "sinks": Sinks(num_sinks=4, window_length=300),
    "dual_chunk": DualChunk(chunk_length=300, local_length=100),
}


class Computed(NamedTuple):
    """A loss, and the gradients of all weights in one row."""

    loss: float
    gradient: Tensor


def network(implementation: str) -> PreTrainedModel:
    """The same weights at every call, with attention that depends on the tokens more than that of fresh weights."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
        max_position_embeddings=LENGTH, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    built = LlamaForCausalLM(config)
    built.set_attn_implementation(implementation)
    with torch.no_grad():
        for layer in built.model.layers:
            layer.self_attn.q_proj.weight.mul_(3)
            layer.self_attn.k_proj.weight.mul_(3)
    return built.cuda().train()


def computed(loss: float, model: PreTrainedModel) -> Computed:
    return Computed(loss, torch.cat([p.grad.double().flatten() for p in model.parameters()]))


@lru_cache
def tokens() -> Tensor:
    return torch.randint(VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1)).cuda()


@lru_cache
def theirs(precision: str, backend: SDPBackend | None) -> Computed:
    """Plain transformers with one of torch's attention operators; None: written out in Python. With bf16, its weights are bfloat16."""
    model = network("eager" if backend is None else "sdpa")
    if precision == "bf16":
        for parameter in model.parameters():  # not `model.to`, which would round rotary frequencies
            parameter.data = parameter.data.bfloat16()
    with sdpa_kernel(backend or SDPBackend.MATH):
        loss = model(input_ids=tokens(), labels=tokens(), use_cache=False).loss
        loss.backward()
    return computed(loss.item(), model)


@lru_cache
def ours(precision: str, plan: str, pattern: str | None = None) -> Computed:
    model = LanguageModel(network(IMPLEMENTATION), word="gpt")
    model.precision = precision
    model.attention = (PATTERNS[pattern] if pattern else Full()).for_length(LENGTH, LENGTH // 4)
    scored = torch.ones_like(tokens(), dtype=torch.bool)
    scored[:, -1] = False
    loss = PLANS[plan].prepare(model, LENGTH).backward(model, Example(tokens(), tokens().roll(-1, 1), scored, None))
    return computed(float(loss), model.network)


def distance(one: Computed, other: Computed) -> float:
    """Of the gradients, relative to the second."""
    return ((one.gradient - other.gradient).norm() / other.gradient.norm()).item()


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_has_the_gradient_of_transformers(plan: str) -> None:
    expected, found = theirs("fp32", None), ours("fp32", plan)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("plan", PLANS)
def test_bfloat16_is_as_near_to_transformers_as_its_own_backends_are_to_each_other(plan: str) -> None:
    expected, other, found = theirs("bf16", SDPBackend.FLASH_ATTENTION), theirs("bf16", None), ours("bf16", plan)
    exact = theirs("fp32", None)
    # Two losses can agree by chance.
    assert found.loss == pytest.approx(expected.loss, abs=max(2e-4, 1.5 * abs(other.loss - expected.loss)))
    assert distance(found, expected) < 1.5 * distance(other, expected)
    assert distance(found, exact) < 1.1 * max(distance(expected, exact), distance(other, exact))


@pytest.mark.parametrize("plan", [name for name in PLANS if name != "plain"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_plan_has_the_gradient_of_the_plain_one(pattern: str, plan: str) -> None:
    expected, found = ours("fp32", "plain", pattern), ours("fp32", plan, pattern)
    assert distance(expected, ours("fp32", "plain")) > 1e-5, "the pattern changes nothing"
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("plan", [name for name in PLANS if name != "plain"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_plan_in_bfloat16_is_as_exact_as_the_plain_one(pattern: str, plan: str) -> None:
    exact, plain, found = ours("fp32", "plain", pattern), ours("bf16", "plain", pattern), ours("bf16", plan, pattern)
    assert found.loss == pytest.approx(exact.loss, abs=max(2e-4, 1.5 * abs(plain.loss - exact.loss)))
    assert distance(found, exact) < 1.2 * distance(plain, exact)
