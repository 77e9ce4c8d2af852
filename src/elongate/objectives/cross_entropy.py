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
    head_scale: float | None = None,
) -> Float[Tensor, ""]:
    """Σ w·CE in nats, w = 1 without weights; differentiable in states and head.

    `head_scale`: the head's gradient, times this, is added to its `.grad` now, and not by the backward pass. For sums over few tokens:
    a tensor as large as the head would be filled, scaled and added for each. Not for a head that is computed from others.
    """
    # Of the network's own numbers, unless it computes in bfloat16.
    dtype = torch.bfloat16 if precision == "bf16" else head[0].dtype
    return _SummedCrossEntropy.apply(states, *head, targets, weights, dtype, head_scale if head[0].is_leaf else None)


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
        head_scale: float | None,
    ) -> Float[Tensor, ""]:
        states, matrix, offset = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        needed = dict(zip(("hidden", "weight", "bias"), ctx.needs_input_grad, strict=False))
        grad_hidden = torch.empty_like(hidden) if needed["hidden"] else None
        grad_weight, grad_bias = (
            _gradient_of(x, head_scale is not None) if needed[name] else None for name, x in (("weight", weight), ("bias", bias))
        )
        scale = 1.0 if head_scale is None else head_scale
        total = torch.zeros((), dtype=wide, device=hidden.device)
        # One for all pieces: new memory is dear.
        room = torch.empty(min(PIECE, len(states)), len(weight), dtype=wide, device=hidden.device)
        waiting: list[Tensor] = []
        for start in range(0, len(states), PIECE):
            at = slice(start, start + PIECE)
            wanted = targets[at, None]
            logits = _logits_in(room[: len(wanted)], states[at], matrix, offset)
            highest, scored = logits.amax(-1, keepdim=True), logits.gather(1, wanted)
            sums = logits.sub_(highest).exp_().sum(-1, keepdim=True)
            losses = (sums.log() + highest - scored)[:, 0]
            total += losses.sum() if weights is None else losses @ weights[at].to(wide)
            # Softmax less one at the target, weighted: the gradient of the logits.
            weight_of = torch.ones_like(sums) if weights is None else weights[at, None].to(wide)
            grad = logits.mul_(weight_of / sums).scatter_add_(1, wanted, -weight_of).to(dtype)
            if grad_hidden is not None:
                grad_hidden[at] = grad @ matrix
            if grad_bias is not None:
                grad_bias.add_(logits.sum(0), alpha=scale)
            if grad_weight is None:
                continue
            if dtype == weight.dtype:
                grad_weight.addmm_(grad.mT, states[at], alpha=scale)
                continue
            waiting.append(grad)
            if len(waiting) == GATHERED or at.stop >= len(states):
                grad_weight.add_(torch.cat(waiting).mT @ states[at.stop - PIECE * len(waiting) : at.stop], alpha=scale)
                waiting = []
        returned = (None, None) if head_scale is not None else (grad_weight, grad_bias)
        ctx.save_for_backward(grad_hidden, *returned)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        # In place: they are as large as the head, and autograd refuses a second backward pass by itself.
        return *(None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors), None, None, None, None


def _gradient_of(parameter: Tensor, is_own: bool) -> Tensor:
    """What its gradient is added to: its own, or zeros."""
    if not is_own:
        return torch.zeros_like(parameter)
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _logits_in(room: Float[Tensor, "piece vocab"], states: Tensor, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "piece vocab"]:
    """The logits, in the room that is given."""
    if room.dtype != weight.dtype:
        return room.copy_(F.linear(states, weight, bias))
    if bias is None:
        return torch.mm(states, weight.mT, out=room)
    return torch.addmm(bias, states, weight.mT, out=room)
