"""The loss of each token, without gradient and without the logits of a whole sequence.

Training uses objectives/cross_entropy.py, which computes the gradient with the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from elongate.models.head import Head

LOGIT_TOKENS = 256  # tokens whose logits exist at a time, so that they stay in the cache


@torch.no_grad()
def token_cross_entropy(
    states: Float[Tensor, "batch length dim"],
    head: Head,
    targets: Int[Tensor, "batch length"],
    precision: str = "fp32",
) -> Float[Tensor, "batch length"]:
    """Return the loss of each target in nats. `states` are the inputs of the head's matrix."""
    if precision == "bf16":
        head = head.to(torch.bfloat16)
    inputs, wanted = states.flatten(0, 1).split(LOGIT_TOKENS), targets.flatten().split(LOGIT_TOKENS)
    losses = [
        F.cross_entropy(head.logits(some), targets_of_some, reduction="none") for some, targets_of_some in zip(inputs, wanted, strict=True)
    ]
    return torch.cat(losses).view_as(targets)
