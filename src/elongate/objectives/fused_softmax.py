"""Cross-entropy and its gradient in three passes over bfloat16 logits: the gradient overwrites them.

torch compiles the function for the card. Statistics and losses are float32 within it, and no float32 copy of the
logits exists, which would take most of the time of the loss.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable


def loss_and_gradient(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"], weights: Float[Tensor, " tokens"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens vocab"]]:
    """Return Σ w·CE in float32 and its gradient, which overwrites the logits."""
    factors = torch.ones(len(logits), device=logits.device) if weights is None else weights
    # A mode that counts operators has to see them.
    compute = _compiled() if torch._C._len_torch_dispatch_stack() == 0 else _compute
    return compute(logits, targets, factors), logits


@lru_cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(_compute, dynamic=True)


def _compute(logits: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
    values = logits.float()
    highest = values.amax(-1, keepdim=True)
    sums = (values - highest).exp().sum(-1, keepdim=True)
    scored = logits.gather(1, targets[:, None]).float()
    loss = ((sums.log() + highest - scored)[:, 0] * factors).sum()
    # Softmax minus one at the target, weighted.
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    logits.copy_(((values - highest).exp() / sums - is_target.float()) * factors[:, None])
    return loss
