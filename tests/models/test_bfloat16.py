"""Computing in bfloat16: what is kept of each layer, and weights that are frozen."""

from __future__ import annotations

import pytest
import torch
from tests.networks import network

from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.recomputation import layers_of
from elongate.models.language_model import LanguageModel
from elongate.models.precision import has_narrow_weights, narrow_frozen_weights, widen_weights
from elongate.objectives.objective import Example
from elongate.tuning.lora import Lora


def example() -> Example:
    tokens = torch.randint(3, 30, (2, 20), generator=torch.Generator().manual_seed(0))
    return Example(tokens, tokens.roll(-1, 1), torch.ones_like(tokens, dtype=torch.bool), None)


@pytest.mark.parametrize("kind", ["llama-2", "gpt2", "bert"])
def test_layers_keep_their_inputs_in_bfloat16(kind: str) -> None:
    model = LanguageModel(network(kind, "elongate").float().train(), kind)
    model.precision = "bf16"
    plan, kept = Checkpoint().prepare(model, 20), []
    plan.backward(model, example())  # with probes in float32
    for layer in layers_of(model.network):
        layer.register_forward_pre_hook(lambda _, states: kept.append(states[0].dtype))
    plan.backward(model, example())
    assert len(kept) > 1
    assert set(kept) == {torch.bfloat16}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_frozen_weights_stay_in_bfloat16_and_compute_the_same() -> None:
    losses, gradients = [], []
    for narrow in (False, True):
        net = network("llama-2", "elongate").float().train()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if "layers.1." not in name:  # as stored in a checkpoint of bfloat16; the others need float32
                    parameter.copy_(parameter.bfloat16())
        model = LanguageModel(net, "gpt")
        model.precision = "bf16"
        Lora(targets=["q_proj", "down_proj"]).apply(model, 0)
        before = {name: p.clone() for name, p in net.named_parameters()}
        if narrow:
            narrow_frozen_weights(net)
            dtypes = {name: p.dtype for name, p in net.named_parameters() if p.ndim > 1}
            assert all((dtype is torch.bfloat16) == ("layers.1." not in name and "lora" not in name) for name, dtype in dtypes.items())
        losses.append(Plain().backward(model, example()))
        gradients.append([p.grad for p in model.parameters()])
        assert model.is_causal  # probes can run the network
        widen_weights(net)
        assert not has_narrow_weights(net)
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
