"""Computing in bfloat16: the residual stream, and with it what memory plans keep of each layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Autocast computes them in float32, and everything that is added to their results would be float32, too.
_STARTS = (nn.Embedding, nn.LayerNorm)


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
