"""Cross-entropy and its gradient from bfloat16 logits in two passes: the gradient overwrites them.

A float32 copy of the logits would take longer than the products with the head. Statistics and losses are float32 here, and
only within the kernel.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elongate.models.counted import is_counted

_BLOCK = 4096  # logits of a row that are read at a time


def loss_and_gradient(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"], weights: Float[Tensor, " tokens"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens vocab"]]:
    """Return Σ w·CE in float32 and its gradient, which overwrites the logits."""
    factors = torch.ones(len(logits), device=logits.device) if weights is None else weights.float()
    if logits.is_cuda and is_counted():
        return _outlined(logits, factors), logits
    if not logits.is_cuda or find_spec("triton") is None:
        return _defined(logits, targets, factors), logits
    from elongate.objectives.fused_softmax_kernel import softmax_kernel

    losses = torch.empty(len(logits), device=logits.device)
    with torch.cuda.device(logits.device):
        softmax_kernel[(len(logits),)](logits, targets, factors, losses, logits.stride(0), logits.shape[1], block=_BLOCK, num_warps=16)
    return losses.sum(), logits


def _defined(logits: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
    values = logits.float()
    logs = values.log_softmax(-1)
    losses = -logs.gather(1, targets[:, None])[:, 0] * factors
    gradient = logs.exp_().scatter_add_(1, targets[:, None], -torch.ones_like(factors)[:, None])
    logits.copy_(gradient.mul_(factors[:, None]))
    return losses.sum()


def _outlined(logits: Tensor, factors: Tensor) -> Tensor:
    """Allocate, read and write what the kernel does, for a dry run."""
    losses = torch.empty_like(factors)
    logits.copy_(logits)
    return losses.sum()
