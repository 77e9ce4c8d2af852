"""Summed cross-entropy without the logits of a whole sequence: memory does not grow with length × vocabulary.

The gradient of a sum is known as soon as its loss is, so it is computed in the forward pass, while
the logits of some tokens exist: three products with the head and no more. (`F.linear_cross_entropy`
does the same, but on CPU it is slow in bfloat16 and cannot score a choice of targets.)

On a CPU, few tokens at a time stay in its cache. On a GPU, a piece is long enough to keep the card busy, and the gradient
overwrites logits that are never copied to float32 (fused_softmax.py).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from elongate.models.gradient_sink import GradientSink, NewGradients
from elongate.models.head import Adjustment, Head
from elongate.objectives.fused_softmax import loss_and_gradient
from elongate.scoring.token_loss import LOGIT_TOKENS

_LEAST_ON_GPU, _TILE = 2048, 128  # tokens of a piece: fewer do not keep a card busy; matrix products work in tiles
GATHERED = 4  # groups of tokens whose gradients share one product with the head, where the product is rounded


def summed_cross_entropy(
    states: Float[Tensor, "tokens dim"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"] | None = None,
    precision: str = "fp32",
    sink: GradientSink | None = None,
) -> Float[Tensor, ""]:
    """Return Σ w·CE in nats, with w = 1 if there are no weights; differentiable in states and head.

    `sink`: add the head's gradient there in the forward pass instead of the backward pass. For sums
    over few tokens, which would otherwise fill, scale and add a tensor as large as the head each time.
    Ignored if the head is computed from other parameters.
    """
    # The type of the weights, unless the network computes in bfloat16.
    dtype = torch.bfloat16 if precision == "bf16" else head.weight.dtype
    used = sink if sink is not None and sink.takes(head.weight) else None
    return _SummedCrossEntropy.apply(states, head.weight, head.bias, targets, weights, head.adjustment, dtype, used)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Float[Tensor, "tokens dim"],
        weight: Float[Tensor, "vocab dim"],
        bias: Float[Tensor, " vocab"] | None,
        targets: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None,
        adjustment: Adjustment,
        dtype: torch.dtype,
        sink: GradientSink | None,
    ) -> Float[Tensor, ""]:
        states, matrix, offset = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        fused = hidden.is_cuda and dtype.itemsize < wide.itemsize and adjustment == Adjustment()
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        new = NewGradients()
        head = HeadGradient(weight if needs_weight else None, bias if needs_bias else None, sink or new, states)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        size = _piece_length(states, matrix)
        # Allocating is slow, so reuse one buffer.
        buffer = torch.empty(min(size, len(states)), len(weight), dtype=dtype if fused else wide, device=hidden.device)
        for start in range(0, len(states), size):
            at = slice(start, min(start + size, len(states)))
            logits = write_products(buffer[: at.stop - start], states[at], matrix, offset)
            own_weights = None if weights is None else weights[at].to(wide)
            if fused:
                loss, exact = loss_and_gradient(logits, targets[at], own_weights)
            else:
                logits = adjustment.apply_(logits)
                slope = adjustment.slope(logits)
                loss, exact = _loss_and_gradient(logits, targets[at, None], own_weights)
                if adjustment != Adjustment():
                    exact.mul_(slope)
            total += loss
            grad = exact.to(dtype)
            if grad_hidden is not None:
                grad_hidden[at] = grad @ matrix
            head.add(exact, grad, at)
        ctx.save_for_backward(grad_hidden, *(new.tensors.get(id(x)) for x in (weight, bias)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        # In place, since they are as large as the head; autograd already refuses a second backward pass.
        return *(None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors), None, None, None, None, None


class HeadGradient:
    """Adds up the gradient of the head over groups of tokens. A weight or bias of None needs no gradient."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None, sink: GradientSink, states: Float[Tensor, "tokens dim"]) -> None:
        self._weight, self._bias, self._sink, self._states = weight, bias, sink, states
        self._waiting: list[Tensor] = []
        for parameter in (weight, bias):
            if parameter is not None:
                sink.buffer(parameter)  # zeros, even if there are no tokens

    def add(self, exact: Float[Tensor, "tokens vocab"], grad: Float[Tensor, "tokens vocab"], at: slice) -> None:
        """Add the gradient of some tokens' logits, given exactly and in the precision of the products."""
        if self._bias is not None:
            self._sink.add(self._bias, exact.sum(0, dtype=self._bias.dtype))
        if self._weight is None:
            return
        if grad.dtype == self._weight.dtype or grad.is_cuda:
            self._sink.add_product(self._weight, grad.mT, self._states[at])
            return
        # On a CPU the product is formed and rounded before it is added, so several groups share one.
        self._waiting.append(grad)
        if len(self._waiting) == GATHERED or at.stop == len(self._states):
            first = at.stop - sum(map(len, self._waiting))
            self._sink.add(self._weight, torch.cat(self._waiting).mT @ self._states[first : at.stop])
            self._waiting = []


def _piece_length(states: Float[Tensor, "tokens dim"], matrix: Float[Tensor, "vocab dim"]) -> int:
    """Return the tokens whose logits exist at a time: on a GPU, as many as take the memory of the states, in whole tiles."""
    if not states.is_cuda:
        return LOGIT_TOKENS
    return max(_LEAST_ON_GPU, states.numel() // len(matrix) // _TILE * _TILE)


def _loss_and_gradient(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, "tokens 1"], weights: Float[Tensor, " tokens"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens vocab"]]:
    """Return Σ w·CE and its gradient, which overwrites the logits."""
    highest, scored = logits.amax(-1, keepdim=True), logits.gather(1, targets)
    sums = logits.sub_(highest).exp_().sum(-1, keepdim=True)
    losses = (sums.log() + highest - scored)[:, 0]
    loss = losses.sum() if weights is None else losses @ weights
    # Softmax minus one at the target, weighted.
    factors = torch.ones_like(sums) if weights is None else weights[:, None]
    return loss, logits.mul_(factors / sums).scatter_add_(1, targets, -factors)


def write_products(
    buffer: Float[Tensor, "tokens vocab"], states: Tensor, weight: Tensor, bias: Tensor | None
) -> Float[Tensor, "tokens vocab"]:
    """Compute the products of states and head into the buffer."""
    if buffer.dtype != weight.dtype:
        return buffer.copy_(F.linear(states, weight, bias))
    if bias is None:
        return torch.mm(states, weight.mT, out=buffer)
    return torch.addmm(bias, states, weight.mT, out=buffer)
