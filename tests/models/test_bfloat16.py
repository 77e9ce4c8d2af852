"""Computing in bfloat16: what is kept of each layer, and weights that are frozen."""

from __future__ import annotations

import pytest
import torch
from tests.networks import network

from elongate.context.position.interpolate import Interpolate
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.recomputation import layers_of
from elongate.models.language_model import LanguageModel
from elongate.models.precision import has_narrow_weights, narrow_frozen_weights, use_precision, widen_frozen_weights
from elongate.models.probes import attention_error, distance_matters, kernel_rotates_alike
from elongate.objectives.objective import Example
from elongate.training.loop import _clip
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
        widen_frozen_weights(net)
        assert not has_narrow_weights(net)
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def probed(model: LanguageModel) -> list[bool | float | None]:
    """What the probes find that compare two computations."""
    found = [model.is_causal, model.meets_in_attention, model.separates_documents, attention_error(model) < 1e-5]
    rotary = [kernel_rotates_alike(model), distance_matters(model)] if model.positions.rotary else []
    return [*found, *rotary, model.is_causal and model.continues_from_cache, model.adjustment is not None]


@pytest.mark.parametrize("kind", ["llama-2", "gpt2", "bert"])
def test_weights_in_bfloat16_are_trained_as_such_and_probed_in_float32(kind: str) -> None:
    wide, pure = (LanguageModel(network(kind, "elongate").float().train(), kind) for _ in range(2))
    use_precision(wide, "bf16")
    use_precision(pure, "bf16_pure")
    before = {name: p.data_ptr() for name, p in pure.network.named_parameters()}
    assert probed(pure) == probed(wide)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert {name: p.data_ptr() for name, p in pure.network.named_parameters()} == before
    losses = [Plain().backward(model, example()) for model in (wide, pure)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-2)
    gradients = [torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None]) for model in (wide, pure)]
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()
    assert {p.grad.dtype for p in pure.parameters() if p.grad is not None} == {torch.bfloat16}
    norm = _clip(pure, None)
    exact = torch.cat([p.grad.double().flatten() for p in pure.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
def test_a_table_of_positions_is_extended_beside_weights_in_bfloat16(precision: str) -> None:
    net = network("gpt2", "elongate").float().train()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.bfloat16())
    model = LanguageModel(net, "gpt2")
    use_precision(model, precision)
    if precision == "bf16":
        Lora().apply(model, 0)
        narrow_frozen_weights(net)
    assert has_narrow_weights(net)
    model.place(Interpolate(), 64, 256)
    assert model.original_length == 256
    assert Plain().backward(model, example()) > 0
