"""Cross-entropy without the logits: the head is applied to pieces, so that memory does not grow with length × vocabulary."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PIECE = 1024  # tokens whose logits exist at once
CHUNK = 256  # likewise, where the gradient is computed with the loss
IGNORED = -100  # the target that linear_cross_entropy passes over

Head = tuple[Float[Tensor, "vocab dim"], Float[Tensor, " vocab"] | None]


def summed_cross_entropy(
    hidden: Float[Tensor, "batch length dim"],
    head: Head,
    targets: Int[Tensor, "batch length"],
    scored: Bool[Tensor, "batch length"],
    precision: str = "fp32",
) -> Float[Tensor, ""]:
    """The sum over scored targets, in nats; differentiable in hidden states and head."""
    weight, bias = head
    hidden, targets = hidden.flatten(0, 1), targets.masked_fill(~scored, IGNORED).flatten()
    if precision == "fp32" and hasattr(F, "linear_cross_entropy"):
        # Its chunked form pays where the vocabulary is the larger side; below that it is slower than the product itself.
        # Left to itself it cuts chunks of a few tokens, which take four times as long.
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK) if weight.shape[0] > PIECE else None
        return F.linear_cross_entropy(hidden, weight, targets, linear_bias=bias, reduction="sum", ignore_index=IGNORED, options=options)
    total = hidden.new_zeros((), dtype=torch.float32)
    for states, wanted in zip(hidden.split(PIECE), targets.split(PIECE), strict=True):
        total = total + checkpoint(_piece, states, weight, bias, wanted, "sum", precision, use_reentrant=False)
    return total


@torch.no_grad()
def token_cross_entropy(
    hidden: Float[Tensor, "batch length dim"], head: Head, targets: Int[Tensor, "batch length"], precision: str = "fp32"
) -> Float[Tensor, "batch length"]:
    """The loss of each target in nats, without gradient."""
    pieces = zip(hidden.flatten(0, 1).split(PIECE), targets.flatten().split(PIECE), strict=True)
    return torch.cat([_piece(states, *head, wanted, "none", precision) for states, wanted in pieces]).view_as(targets)


def _piece(
    states: Float[Tensor, "piece dim"],
    weight: Float[Tensor, "vocab dim"],
    bias: Float[Tensor, " vocab"] | None,
    targets: Int[Tensor, " piece"],
    reduction: str,
    precision: str,
) -> Tensor:
    with torch.autocast(states.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = F.linear(states, weight, bias)
    return F.cross_entropy(logits.float() if precision == "bf16" else logits, targets, ignore_index=IGNORED, reduction=reduction)
