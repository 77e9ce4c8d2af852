"""Attentions with a sink, a softcap or chunks, and layers that drop layouts, under every plan.

Loss and gradients are those of transformers' eager attention.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from tests.covering import all_pairs
from tests.exotic import exotic
from tests.networks import VOCAB
from torch import Tensor
from torch.nn import functional as F

from elongate.context.attention.attention import Pattern
from elongate.context.attention.full import Full
from elongate.context.attention.sinks import SinksPattern
from elongate.context.attention.window import Window, WindowPattern
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Plan
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.compatibility import check_attention, check_isolation, check_network
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example

LENGTH, WIDTH, CHUNK = 20, 6, 8
KINDS = ["gpt_oss", "mimo", "gemma2", "llama4", "stablelm", "nemotron"]
PLANS: dict[str, Plan] = {
    "plain": Plain(),
    "checkpoint": Checkpoint(mlp_chunk_length=8),
    "checkpoint recomputed": Checkpoint(keep_attention=False),
    "stream": Stream(chunk_length=7),
    "stream on disk": Stream(chunk_length=7, keep_attention=False, on_disk=True),
}
PATTERNS: dict[str, Pattern] = {"full": Full(), "window": WindowPattern(WIDTH)}
Step = tuple[float, dict[str, Tensor]]


def batch() -> Example:
    tokens = torch.randint(VOCAB, (2, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    return Example(tokens[:, :-1], tokens[:, 1:], torch.ones(2, LENGTH, dtype=torch.bool), None)


def ours(kind: str, pattern: Pattern, plan: Plan, **fields: object) -> Step:
    model = LanguageModel(exotic(kind, **fields), kind)
    model.attention = pattern
    loss = plan.prepare(model, LENGTH).backward(model, batch())
    return loss, {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}


@lru_cache
def theirs(kind: str, pattern: str) -> Step:
    network, example = exotic(kind, "eager"), batch()
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    seen = (distance >= 0) & (distance < WIDTH)
    masks = dict.fromkeys(getattr(network.config, "layer_types", ["all"]), seen)
    if "chunked_attention" in masks:
        masks["chunked_attention"] = seen & (torch.arange(LENGTH)[:, None] // CHUNK == torch.arange(LENGTH) // CHUNK)
    lowest = torch.finfo(torch.float32).min
    lows = {name: torch.where(mask, 0.0, lowest).expand(2, 1, LENGTH, LENGTH) for name, mask in masks.items()}
    windows = {"attention_mask": lows.get("all", lows)}
    logits = network(input_ids=example.inputs, use_cache=False, **windows if pattern == "window" else {}).logits
    loss = F.cross_entropy(logits.flatten(0, 1), example.targets.flatten())
    loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def assert_same(found: Step, expected: Step) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    whole = torch.stack([gradient.norm() for gradient in expected[1].values()]).norm()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 2e-5 * whole, name


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pattern", "plan"), all_pairs(KINDS, [*PATTERNS], [*PLANS]))
def test_every_gradient_equals_that_of_eager_attention(kind: str, pattern: str, plan: str) -> None:
    assert_same(ours(kind, PATTERNS[pattern], PLANS[plan]), theirs(kind, pattern))


def test_the_gradient_of_the_sink_is_among_them() -> None:
    gradient = theirs("gpt_oss", "full")[1]["model.layers.0.self_attn.sinks"]
    assert (gradient.abs() > 1e-5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_such_networks_are_accepted(kind: str) -> None:
    model = LanguageModel(exotic(kind), kind)
    check_network(model)
    check_isolation(model)
    check_attention(model, Window(window_length=WIDTH))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2"])
def test_all_plans_agree_under_an_attention_with_positions(kind: str) -> None:
    layers = {"layer_types": ["full_attention"] * 2}
    expected = ours(kind, SinksPattern(2, WIDTH), Plain(), **layers)
    assert_same(ours(kind, SinksPattern(2, WIDTH), PLANS["stream"], **layers), expected)
