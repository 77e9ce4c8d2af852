"""Computing in bfloat16: the residual stream, and with it what memory plans keep of each layer; and weights in bfloat16.

`bf16` trains float32 weights, `bf16_pure` trains weights that are bfloat16 themselves (training/optimizer/eight_bit.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Autocast computes them in float32, and everything that is added to their results would be float32, too.
_STARTS = (nn.Embedding, nn.LayerNorm)


@runtime_checkable
class Computing(Protocol):
    """A model, as far as its precision is concerned."""

    network: PreTrainedModel
    precision: str  # of its computation: fp32 or bf16


def use_precision(model: Computing, precision: str) -> None:
    """Compute in a precision. With `bf16_pure` the weights that can be trained are rounded to bfloat16, for good."""
    model.precision = "fp32" if precision == "fp32" else "bf16"
    if precision == "bf16_pure":
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.detach().to(torch.bfloat16)
        narrow_frozen_weights(model.network)  # the towers of a multimodal network are exported as they are


def narrow_residual_stream(network: nn.Module) -> None:
    """Round embeddings and normalized states to bfloat16 where the network computes in it.

    Statistics of norms stay in float32. Without this, autocast keeps the states between layers in float32: twice the
    memory.
    """
    for module in network.modules():
        if isinstance(module, _STARTS):
            module.register_forward_hook(_rounded)


def _rounded(module: nn.Module, given: Any, result: Tensor) -> Tensor:
    kind = result.device.type
    return result.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else result


def compute_dtype(network: nn.Module, precision: str) -> torch.dtype:
    """Return the dtype of matrix products and attention."""
    return torch.bfloat16 if precision == "bf16" else next(network.parameters()).dtype


def narrow_frozen_weights(network: PreTrainedModel) -> None:
    """Keep frozen matrices in bfloat16 where that loses nothing: those of a checkpoint that is stored in it.

    Tables of positions, which strategies compute from, stay as they are.
    """
    tokens = network.get_input_embeddings()
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding) and m is not tokens}
    for parameter in network.parameters():
        if parameter.requires_grad or parameter.ndim < 2 or parameter.dtype is not torch.float32 or id(parameter) in tables:
            continue
        narrow = parameter.detach().to(torch.bfloat16)
        if _stores_exactly(narrow, parameter, network):
            parameter.data = narrow


def _stores_exactly(narrow: Tensor, parameter: Tensor, network: PreTrainedModel) -> bool:
    if parameter.is_meta:  # as in a plan: the configuration says how the weights are stored
        return network.config.dtype is torch.bfloat16
    return torch.equal(narrow.to(torch.float32), parameter)


def widen_frozen_weights(network: PreTrainedModel) -> None:
    """Undo `narrow_frozen_weights`, before updates are merged into the weights."""
    for parameter in network.parameters():
        if parameter.dtype is torch.bfloat16 and not parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextmanager
def widened(network: PreTrainedModel) -> Iterator[None]:
    """Within this context, the weights that are trained are float32: for comparing two ways to compute the same.

    They must not change meanwhile. Takes 4 bytes per weight, which gradients and optimizer state take in training.
    """
    narrow = {p: p.data for p in network.parameters() if p.dtype is torch.bfloat16 and p.requires_grad}
    for parameter, values in narrow.items():
        parameter.data = values.float()
    try:
        yield
    finally:
        for parameter, values in narrow.items():
            parameter.data = values


def has_narrow_weights(network: PreTrainedModel) -> bool:
    """Return whether the network cannot compute in float32."""
    return any(parameter.dtype is torch.bfloat16 for parameter in network.parameters())
