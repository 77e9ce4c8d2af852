"""Cross-entropy without the logits: the head is applied to pieces, so that memory does not grow with length × vocabulary.

The gradient of a sum is known as soon as its loss is, so it is computed with it, while the logits of the piece are there: three products
with the head and no more (`F.linear_cross_entropy` does the same, but takes no bfloat16 at speed on CPU and no choice of targets).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

PIECE = 256  # tokens whose logits exist at once: they stay in the cache
GATHERED = 4  # pieces whose gradients meet the head's in one product, where that is rounded

Head = tuple[Float[Tensor, "vocab dim"], Float[Tensor, " vocab"] | None]


def summed_cross_entropy(
    states: Float[Tensor, "tokens dim"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"] | None = None,
    precision: str = "fp32",
) -> Float[Tensor, ""]:
    """Σ w·CE in nats, w = 1 without weights; differentiable in states and head."""
    # Of the network's own numbers, unless it computes in bfloat16.
    dtype = torch.bfloat16 if precision == "bf16" else head[0].dtype
    return _SummedCrossEntropy.apply(states, *head, targets, weights, dtype)


@torch.no_grad()
def token_cross_entropy(
    hidden: Float[Tensor, "batch length dim"], head: Head, targets: Int[Tensor, "batch length"], precision: str = "fp32"
) -> Float[Tensor, "batch length"]:
    """The loss of each target in nats, without gradient."""
    dtype = torch.bfloat16 if precision == "bf16" else head[0].dtype
    states, (weight, bias) = hidden.flatten(0, 1).to(dtype), (None if part is None else part.to(dtype) for part in head)
    pieces = zip(states.split(PIECE), targets.flatten().split(PIECE), strict=True)
    return torch.cat([F.cross_entropy(_logits(piece, weight, bias), wanted, reduction="none") for piece, wanted in pieces]).view_as(targets)


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "piece vocab"]:
    return F.linear(states, weight, bias).to(torch.promote_types(states.dtype, torch.float32))


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Float[Tensor, "tokens dim"],
        weight: Float[Tensor, "vocab dim"],
        bias: Float[Tensor, " vocab"] | None,
        targets: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, ""]:
        states, matrix, offset = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        grads = [
            None if not needed else torch.zeros_like(x) for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        ]
        total = torch.zeros((), dtype=wide, device=hidden.device)
        waiting: list[Tensor] = []
        for start in range(0, len(states), PIECE):
            at = slice(start, start + PIECE)
            logits = _logits(states[at], matrix, offset)
            sums, wanted = logits.logsumexp(-1), targets[at, None]
            losses = sums - logits.gather(1, wanted)[:, 0]
            total += losses.sum() if weights is None else losses @ weights[at].to(wide)
            # Softmax less one at the target: the gradient of the logits.
            logits = logits.sub_(sums[:, None]).exp_()
            logits.scatter_add_(1, wanted, torch.full_like(sums, -1)[:, None])
            if weights is not None:
                logits.mul_(weights[at, None])
            grad = logits.to(dtype)
            if grads[0] is not None:
                grads[0][at] = grad @ matrix
            if grads[2] is not None:
                grads[2] += logits.sum(0)
            if grads[1] is None:
                continue
            if dtype == weight.dtype:
                grads[1].addmm_(grad.mT, states[at])
                continue
            waiting.append(grad)
            if len(waiting) == GATHERED or at.stop >= len(states):
                grads[1] += torch.cat(waiting).mT @ states[at.stop - PIECE * len(waiting) : at.stop]
                waiting = []
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        # In place: they are as large as the head, and autograd refuses a second backward pass by itself.
        return *(None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors), None, None, None
