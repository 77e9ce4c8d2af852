"""Cross-entropy without logits of a whole sequence: the head is applied to pieces, so memory does not grow with length × vocabulary.

The gradient of a sum is known as soon as its loss is, so both are computed together, while the piece's logits exist: three
products with the head in total. `F.linear_cross_entropy` does the same, but is slow in bfloat16 on CPU and cannot weight targets.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from elongate.models.gradient_sink import GradientSink, NewGradients

PIECE = 256  # tokens whose logits exist at the same time: few enough to stay in the processor's cache
GATHERED = 4  # pieces per product with the head's gradient, where that product is rounded to bfloat16

Head = tuple[Float[Tensor, "vocab dim"], Float[Tensor, " vocab"] | None]


def summed_cross_entropy(
    states: Float[Tensor, "tokens dim"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"] | None = None,
    precision: str = "fp32",
    sink: GradientSink | None = None,
) -> Float[Tensor, ""]:
    """Return Σ w·CE in nats (w = 1 without weights), differentiable in states and head.

    With a `sink`, the head's gradient is added there during this call and the backward pass returns none: use it for sums over
    few tokens, where autograd would fill and add a tensor as large as the head. A head that is computed from other
    parameters is left to autograd.
    """
    # Without bf16, compute in the precision of the network's own weights.
    dtype = torch.bfloat16 if precision == "bf16" else head[0].dtype
    used = sink if sink is not None and sink.takes(head[0]) else None
    return _SummedCrossEntropy.apply(states, *head, targets, weights, dtype, used)


@torch.no_grad()
def token_cross_entropy(
    hidden: Float[Tensor, "batch length dim"], head: Head, targets: Int[Tensor, "batch length"], precision: str = "fp32"
) -> Float[Tensor, "batch length"]:
    """Return the loss of each target in nats, without gradient."""
    dtype = torch.bfloat16 if precision == "bf16" else head[0].dtype
    states, (weight, bias) = hidden.flatten(0, 1).to(dtype), (None if part is None else part.to(dtype) for part in head)
    pieces = zip(states.split(PIECE), targets.flatten().split(PIECE), strict=True)
    losses = [F.cross_entropy(_logits(piece, weight, bias), wanted, reduction="none") for piece, wanted in pieces]
    return torch.cat(losses).view_as(targets)


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
        sink: GradientSink | None,
    ) -> Float[Tensor, ""]:
        states, matrix, offset = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        new = NewGradients()
        head = _HeadGradient(weight if needs_weight else None, bias if needs_bias else None, sink or new, states)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        # One buffer for all pieces, because allocating is slow.
        buffer = torch.empty(min(PIECE, len(states)), len(weight), dtype=wide, device=hidden.device)
        for start in range(0, len(states), PIECE):
            piece = slice(start, min(start + PIECE, len(states)))
            logits = _logits_into(buffer[: piece.stop - start], states[piece], matrix, offset)
            loss, grad = _loss_and_gradient(logits, targets[piece, None], None if weights is None else weights[piece].to(wide))
            total += loss
            rounded = grad.to(dtype)
            if grad_hidden is not None:
                grad_hidden[piece] = rounded @ matrix
            head.add(grad, rounded, piece)
        ctx.save_for_backward(grad_hidden, *(new.tensors.get(id(x)) for x in (weight, bias)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        # In place, because they are as large as the head; autograd refuses a second backward pass anyway.
        return *(None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors), None, None, None, None


class _HeadGradient:
    """The gradient of the head, added up piece by piece."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None, sink: GradientSink, states: Float[Tensor, "tokens dim"]) -> None:
        self._weight, self._bias, self._sink, self._states = weight, bias, sink, states
        self._waiting: list[Tensor] = []
        for parameter in (weight, bias):
            if parameter is not None:
                sink.buffer(parameter)  # zeros where nothing is scored

    def add(self, grad: Float[Tensor, "piece vocab"], rounded: Float[Tensor, "piece vocab"], piece: slice) -> None:
        """Add a piece from the gradient of its logits, in full precision for the bias and rounded for the matrix."""
        if self._bias is not None:
            self._sink.add(self._bias, grad.sum(0))
        if self._weight is None:
            return
        if rounded.dtype == self._weight.dtype:
            self._sink.add_product(self._weight, rounded.mT, self._states[piece])
            return
        # The product is rounded before it is added, so several pieces share one.
        self._waiting.append(rounded)
        if len(self._waiting) == GATHERED or piece.stop == len(self._states):
            first = piece.stop - sum(map(len, self._waiting))
            self._sink.add(self._weight, torch.cat(self._waiting).mT @ self._states[first : piece.stop])
            self._waiting = []


def _loss_and_gradient(
    logits: Float[Tensor, "piece vocab"], targets: Int[Tensor, "piece 1"], weights: Float[Tensor, " piece"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, "piece vocab"]]:
    """Return Σ w·CE and its gradient, which replaces the logits."""
    highest, scored = logits.amax(-1, keepdim=True), logits.gather(1, targets)
    sums = logits.sub_(highest).exp_().sum(-1, keepdim=True)
    losses = (sums.log() + highest - scored)[:, 0]
    loss = losses.sum() if weights is None else losses @ weights
    # The gradient is w · (softmax - 1 at the target).
    factors = torch.ones_like(sums) if weights is None else weights[:, None]
    return loss, logits.mul_(factors / sums).scatter_add_(1, targets, -factors)


def _logits_into(buffer: Float[Tensor, "piece vocab"], states: Tensor, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "piece vocab"]:
    """Compute the logits in the given buffer."""
    if buffer.dtype != weight.dtype:
        return buffer.copy_(F.linear(states, weight, bias))
    if bias is None:
        return torch.mm(states, weight.mT, out=buffer)
    return torch.addmm(bias, states, weight.mT, out=buffer)
