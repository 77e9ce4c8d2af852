"""Summed cross-entropy plus the divergence from a teacher, without the logits of a whole sequence.

The loss of a token is w · (α·CE + (1 − α)·τ²·D), where D compares softmax(z_t / τ) of the teacher with softmax(z_s / τ)
of the student. As in `cross_entropy`, gradients are computed in the forward pass while the logits of some tokens exist.
The factor τ² keeps the size of the gradient as τ grows (Hinton et al. 2015, arXiv:1503.02531).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from elongate.models.gradient_sink import GradientSink, NewGradients
from elongate.models.head import Head
from elongate.objectives.cross_entropy import HeadGradient, summed_cross_entropy
from elongate.objectives.teacher import Divergence, Kind
from elongate.scoring.token_loss import LOGIT_TOKENS

PIECE = LOGIT_TOKENS // 2  # tokens at a time: there are logits of two models


def summed_distillation(
    states: Float[Tensor, "tokens dim"],
    head: Head,
    teacher_states: Float[Tensor, "tokens teacher_dim"],
    teacher_head: Head,
    targets: Int[Tensor, " tokens"],
    divergence: Divergence,
    weights: Float[Tensor, " tokens"] | None = None,
    precision: str = "fp32",
    sink: GradientSink | None = None,
) -> Float[Tensor, ""]:
    """Return Σ w·(α·CE + (1 − α)·τ²·D) in nats, with w = 1 if there are no weights.

    Differentiable in the states and the head of the student; the teacher gets no gradient. If one head has more words than
    the other, D compares the words that both have. `sink`: see `summed_cross_entropy`.
    """
    if divergence.alpha == 1:
        return summed_cross_entropy(states, head, targets, weights, precision, sink)
    dtype = torch.bfloat16 if precision == "bf16" else head.weight.dtype
    used = sink if sink is not None and sink.takes(head.weight) else None
    teacher = (teacher_states.detach(), teacher_head)
    return _SummedDistillation.apply(states, head.weight, head.bias, targets, weights, head, teacher, divergence, dtype, used)


class _SummedDistillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Float[Tensor, "tokens dim"],
        weight: Float[Tensor, "vocab dim"],
        bias: Float[Tensor, " vocab"] | None,
        targets: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None,
        student: Head,
        teacher: tuple[Float[Tensor, "tokens teacher_dim"], Head],
        divergence: Divergence,
        dtype: torch.dtype,
        sink: GradientSink | None,
    ) -> Float[Tensor, ""]:
        states, cast = hidden.to(dtype), student.to(dtype)
        teacher_states, teacher_head = teacher[0], teacher[1].to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        new = NewGradients()
        head = HeadGradient(weight if needs_weight else None, bias if needs_bias else None, sink or new, states)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        for start in range(0, len(states), PIECE):
            at = slice(start, min(start + PIECE, len(states)))
            logits = cast.logits(states[at])
            slope = cast.adjustment.slope(logits)
            losses, exact = _losses_and_gradient(logits, teacher_head.logits(teacher_states[at]), targets[at, None], divergence)
            exact *= slope
            if weights is not None:
                own = weights[at].to(wide)
                losses, exact = losses * own, exact * own[:, None]
            total += losses.sum()
            grad = exact.to(dtype)
            if grad_hidden is not None:
                grad_hidden[at] = grad @ cast.weight
            head.add(exact, grad, at)
        ctx.save_for_backward(grad_hidden, *(new.tensors.get(id(x)) for x in (weight, bias)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        # In place, since they are as large as the head; autograd already refuses a second backward pass.
        return *(None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors), *[None] * 7


def _losses_and_gradient(
    logits: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens teacher_vocab"],
    targets: Int[Tensor, "tokens 1"],
    divergence: Divergence,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "tokens vocab"]]:
    """Return the loss of each token and its gradient with respect to the student's logits. Overwrites both logits."""
    alpha, temperature = divergence.alpha, divergence.temperature
    log_sums = logits.logsumexp(-1, keepdim=True)
    losses = alpha * (log_sums - logits.gather(1, targets))[:, 0]
    gradient = (logits - log_sums).exp_().mul_(alpha).scatter_add_(1, targets, torch.full_like(losses, -alpha)[:, None])
    common = min(logits.shape[1], teacher.shape[1])
    log_q, log_p = (_log_softmax_(x[:, :common].div_(temperature)) for x in (logits, teacher))
    distances, slope = _distance_and_gradient(log_q, log_p, divergence.kind)
    # The logits are divided by τ, so the gradient of τ²·D has the factor τ.
    losses += (1 - alpha) * temperature**2 * distances
    gradient[:, :common].add_(slope, alpha=(1 - alpha) * temperature)
    return losses, gradient


def _log_softmax_(logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def _distance_and_gradient(
    log_q: Float[Tensor, "tokens vocab"], log_p: Float[Tensor, "tokens vocab"], kind: Kind
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "tokens vocab"]]:
    """Return D of the student q and the teacher p, and its gradient with respect to what the softmax of q reads.

    Overwrites both: each is as large as the vocabulary.
    """
    if kind == "forward_kl":
        p = log_p.exp()
        distance = log_p.sub_(log_q).mul_(p).sum(-1)
        return distance, log_q.exp_().sub_(p)
    if kind == "reverse_kl":
        return _mean_and_gradient(log_q, log_p.neg_().add_(log_q))
    log_mean = torch.logaddexp(log_q, log_p).sub_(math.log(2))
    from_teacher = log_p.exp().mul_(log_p.sub_(log_mean)).sum(-1)
    from_student, gradient = _mean_and_gradient(log_q, log_mean.neg_().add_(log_q))
    return (from_teacher + from_student) / 2, gradient.div_(2)


def _mean_and_gradient(
    log_q: Float[Tensor, "tokens vocab"], ratio: Float[Tensor, "tokens vocab"]
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "tokens vocab"]]:
    """Return the mean of log q / r under q and its gradient. Overwrites both arguments."""
    q = log_q.exp_()
    mean = (q * ratio).sum(-1, keepdim=True)
    return mean[:, 0], ratio.sub_(mean).mul_(q)
