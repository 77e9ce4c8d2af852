"""Layer inputs on the host, with copies within the memory of the CPU."""

from __future__ import annotations

import pytest
import torch
from tests.networks import network
from torch import Tensor, nn

from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.offload import _HostCopies, offloaded
from elongate.models.language_model import LanguageModel

CPU = torch.device("cpu")


def test_a_backward_pass_reads_what_was_copied() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2**10, 2**9, requires_grad=True), nn.Parameter(torch.randn(2**9, 2**9))

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(((first @ second).sin() @ second).sum(), (first, second))

    expected = gradients()
    with offloaded(CPU):
        loss = ((first @ second).sin() @ second).sum()
    found = torch.autograd.grad(loss, (first, second))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_only_large_activations_are_copied_and_the_one_before_is_fetched_early() -> None:
    copies = _HostCopies(CPU)
    small, weight = torch.randn(4), nn.Parameter(torch.randn(2**9, 2**10))
    assert copies.save(small) is small
    assert copies.save(weight) is weight
    large = [torch.randn(2**9, 2**10) for _ in range(3)]
    handles = [copies.save(tensor) for tensor in large]
    copies.finish()
    assert copies._leaving is None
    for handle, tensor in reversed(list(zip(handles, large, strict=True))):
        loaded = copies.load(handle)
        assert torch.equal(loaded, tensor)
        assert loaded is not tensor
        assert list(copies._fetched) == ([] if handle == handles[0] else [handle - 1])


def test_a_cpu_has_nothing_to_offload_to() -> None:
    model = LanguageModel(network("llama-2", "elongate"), "gpt")
    with pytest.raises(ConfigError, match=r"^offload=host: keeps .* in the memory that device=cpu uses anyway; use offload=none$"):
        Checkpoint(offload="host").prepare(model, 20)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"offload=disk: must be none or host; use offload=none"):
        Checkpoint(offload="disk")
    with pytest.raises(ConfigError, match=r"offload=host: keeps layer inputs only, and memory.keep_layers=2 keeps more; use"):
        Checkpoint(offload="host", keep_layers=2)
    with pytest.raises(ConfigError, match=r"keep_layers=3: must be at most the number of layers, 2; use memory.keep_layers=2"):
        Checkpoint(keep_layers=3).prepare(LanguageModel(network("llama-2", "elongate"), "gpt"), 20)
