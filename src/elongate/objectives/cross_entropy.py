"""Summed cross-entropy without the logits of a whole sequence: memory does not grow with length × vocabulary.

The gradient of a sum is known as soon as its loss is, so it is computed in the forward pass, while
the logits of some tokens exist: three products with the head and no more. (`F.linear_cross_entropy`
does the same, but on CPU it is slow in bfloat16 and cannot score a choice of targets.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from elongate.models.head import HeadWeights
from elongate.scoring.token_loss import LOGIT_TOKENS

GATHERED = 4  # groups of tokens whose gradients share one product with the head, where the product is rounded


def summed_cross_entropy(
    states: Float[Tensor, "tokens dim"],
    head: HeadWeights,
    targets: Int[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"] | None = None,
    precision: str = "fp32",
    head_scale: float | None = None,
) -> Float[Tensor, ""]:
    """Return Σ w·CE in nats, with w = 1 if there are no weights; differentiable in states and head.

    `head_scale`: add the head's gradient, times this, to its `.grad` in the forward pass instead of
    the backward pass. For sums over few tokens, which would otherwise fill, scale and add a tensor
    as large as the head each time. Ignored if the head is computed from other parameters.
    """
    # The type of the weights, unless the network computes in bfloat16.
    dtype = torch.bfloat16 if precision == "bf16" else head[0].dtype
    return _SummedCrossEntropy.apply(states, *head, targets, weights, dtype, head_scale if head[0].is_leaf else None)


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
        is_own = head_scale is not None
        grad_weight = _gradient_of(weight, is_own) if needed["weight"] else None
        grad_bias = _gradient_of(bias, is_own) if bias is not None and needed["bias"] else None
        scale = 1.0 if head_scale is None else head_scale
        total = torch.zeros((), dtype=wide, device=hidden.device)
        # Allocating is slow, so reuse one buffer.
        buffer = torch.empty(min(LOGIT_TOKENS, len(states)), len(weight), dtype=wide, device=hidden.device)
        waiting: list[Tensor] = []
        for start in range(0, len(states), LOGIT_TOKENS):
            at = slice(start, start + LOGIT_TOKENS)
            wanted = targets[at, None]
            logits = _write_logits(buffer[: len(wanted)], states[at], matrix, offset)
            highest, scored = logits.amax(-1, keepdim=True), logits.gather(1, wanted)
            sums = logits.sub_(highest).exp_().sum(-1, keepdim=True)
            losses = (sums.log() + highest - scored)[:, 0]
            total += losses.sum() if weights is None else losses @ weights[at].to(wide)
            # The gradient of the logits: softmax minus one at the target, weighted.
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
                first = at.stop - LOGIT_TOKENS * len(waiting)
                grad_weight.add_(torch.cat(waiting).mT @ states[first : at.stop], alpha=scale)
                waiting = []
        returned = (None, None) if head_scale is not None else (grad_weight, grad_bias)
        ctx.save_for_backward(grad_hidden, *returned)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        # In place, since they are as large as the head; autograd already refuses a second backward pass.
        return *(None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors), None, None, None, None


def _gradient_of(parameter: Tensor, is_own: bool) -> Tensor:
    """Return the tensor to which the gradient is added: the parameter's `.grad`, or zeros."""
    if not is_own:
        return torch.zeros_like(parameter)
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _write_logits(
    buffer: Float[Tensor, "tokens vocab"], states: Tensor, weight: Tensor, bias: Tensor | None
) -> Float[Tensor, "tokens vocab"]:
    """Compute the logits into the buffer."""
    if buffer.dtype != weight.dtype:
        return buffer.copy_(F.linear(states, weight, bias))
    if bias is None:
        return torch.mm(states, weight.mT, out=buffer)
    return torch.addmm(bias, states, weight.mT, out=buffer)
