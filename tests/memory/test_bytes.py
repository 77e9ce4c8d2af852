"""Bytes that a step needs for each further token, counted in the storages of its tensors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
from tests.memory.plans import PLANS, QUICK
from tests.networks import VOCAB, network
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example


class Bytes(TorchDispatchMode):
    """Counts the bytes of all live tensors that were created in the context, without the given ones."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, operator: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operator(*args, **kwargs or {})
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def counted(plan: Memory, length: int, rows: int = 1, **fields: Any) -> Bytes:
    """Runs a step and returns its counted bytes, without parameters and their gradients."""
    model = LanguageModel(network("llama-2", "elongate", torch.float32, num_hidden_layers=4, **fields), "llama")
    prepared, batch = plan.prepare(model, length), repeated(length, rows)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gc.disable()
    try:
        model_tensors = [*model.network.parameters(), *model.network.buffers(), *(p.grad for p in model.parameters())]
        with Bytes([*model_tensors, batch.inputs, batch.targets, batch.scored]) as counting:
            prepared.backward(model, batch)
    finally:
        gc.enable()
    return counting


def repeated(length: int, rows: int) -> Example:
    tokens = (torch.arange(rows * (length + 1)) * 7 % VOCAB).view(rows, length + 1)
    return Example(tokens[:, :-1], tokens[:, 1:], torch.ones(rows, length, dtype=torch.bool), None)


@cache
def bytes_per_further_token(plan: Memory) -> float:
    return (counted(plan, 256).peak - counted(plan, 128).peak) / 128


@pytest.mark.slow
def test_a_stream_needs_only_keys_values_and_their_gradients_per_further_token() -> None:
    layers, kv_heads, dim, wide = 4, 2, 4, 4
    floor = 4 * layers * kv_heads * dim * wide
    lean = bytes_per_further_token(Stream(chunk_length=32, keep_attention=False))
    # Plus the gradients of one chunk in one layer, before they are added.
    assert floor <= lean <= floor + 2 * kv_heads * dim * wide + 8
    outputs = layers * (32 * wide + 8 * wide)  # and their log-sum-exp
    assert bytes_per_further_token(Stream(chunk_length=32)) <= lean + outputs + 8


@pytest.mark.slow
@pytest.mark.parametrize("keep_attention", [True, False])
def test_a_stream_on_disk_needs_one_layer_per_further_token(keep_attention: bool) -> None:
    kv_heads, dim, wide = 2, 4, 4
    layer = 6 * kv_heads * dim * wide  # keys, values, their gradients, and the gradients of a chunk before they are added
    assert bytes_per_further_token(Stream(chunk_length=32, keep_attention=keep_attention, on_disk=True)) <= layer + 8


@pytest.mark.slow
def test_plain_needs_most_per_further_token_and_stream_least() -> None:
    plain, checkpoint, stream = map(bytes_per_further_token, (Plain(), Checkpoint(mlp_chunk_length=32), Stream(chunk_length=32)))
    assert stream < checkpoint / 2
    assert checkpoint < plain / 2
    assert stream < plain / 6


@pytest.mark.slow
def test_keeping_attention_outputs_costs_only_their_bytes() -> None:
    layers, wide = 4, 4
    outputs = layers * (32 * wide + 8 * wide)  # and their log-sum-exp
    again, kept = (bytes_per_further_token(Checkpoint(keep_attention=keep, mlp_chunk_length=32)) for keep in (False, True))
    assert again < kept <= again + outputs


@pytest.mark.slow
@pytest.mark.parametrize("plan", QUICK)
def test_nothing_is_left_after_a_step(plan: str) -> None:
    """All tensors of a step are freed at its end, without the cyclic garbage collector."""
    assert counted(PLANS[plan], 20, 2).now == 0
