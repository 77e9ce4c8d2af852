"""How far the predictions of two directions differ: total variation, ½ Σ |p − q| over the vocabulary.

Nguyen et al. 2023, arXiv:2303.07295, section 3.1. As in cross_entropy.py, the logits of a whole
sequence never exist: the gradient is computed together with the sum, while the logits of some
tokens exist.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from elongate.models.head import Adjustment, Head
from elongate.scoring.token_loss import LOGIT_TOKENS


def predicted_twice(scored: Bool[Tensor, "rows length"]) -> Bool[Tensor, "pairs rest"]:
    """Return which tokens are scored in both rows of a pair (a text and its reverse), in the order of the text.

    The first row predicts tokens 1 ... length, the second length − 1 ... 0: all but the last of
    each coincide.
    """
    return scored[0::2, :-1] & scored[1::2, :-1].flip(1)


def states_of_both(
    hidden: Float[Tensor, "rows length dim"], scored: Bool[Tensor, "rows length"]
) -> tuple[Float[Tensor, "tokens dim"], Float[Tensor, "tokens dim"]]:
    """Return the states that predict these tokens from the tokens before them, and from the tokens after them."""
    both = predicted_twice(scored)
    return hidden[0::2, :-1][both], hidden[1::2, :-1].flip(1)[both]


def summed_disagreement(
    forward: Float[Tensor, "tokens dim"],
    backward: Float[Tensor, "tokens dim"],
    head: Head,
    precision: str = "fp32",
) -> Float[Tensor, ""]:
    """Return the sum of the total variation distance (0 to 1 per token); differentiable in states and head."""
    dtype = torch.bfloat16 if precision == "bf16" else head.weight.dtype
    return _SummedDisagreement.apply(forward, backward, head.weight, head.bias, head.adjustment, dtype)


class _SummedDisagreement(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        forward: Float[Tensor, "tokens dim"],
        backward: Float[Tensor, "tokens dim"],
        weight: Float[Tensor, "vocab dim"],
        bias: Float[Tensor, " vocab"] | None,
        adjustment: Adjustment,
        dtype: torch.dtype,
    ) -> Float[Tensor, ""]:
        head = Head(weight, bias, adjustment).to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        needed = zip((forward, backward, weight, bias), ctx.needs_input_grad, strict=False)
        grads = [torch.zeros_like(x) if is_needed else None for x, is_needed in needed]
        total = torch.zeros((), dtype=wide, device=weight.device)
        for start in range(0, len(forward), LOGIT_TOKENS):
            at = slice(start, start + LOGIT_TOKENS)
            states = [x[at].to(dtype) for x in (forward, backward)]
            scores = [head.logits(x) for x in states]
            chances = [x.softmax(-1) for x in scores]
            difference = chances[0] - chances[1]
            total += difference.abs().sum() / 2
            for row, sign in enumerate((difference.sign() / 2, difference.sign() / -2)):
                # Through the softmax: p · (g − Σ p·g), where g is the gradient of the probabilities.
                logits = chances[row] * (sign - (chances[row] * sign).sum(-1, keepdim=True)) * adjustment.slope(scores[row])
                grad = logits.to(dtype)
                if (own := grads[row]) is not None:
                    own[at] = grad @ head.weight
                if grads[2] is not None:
                    grads[2] += grad.mT @ states[row]
                if grads[3] is not None:
                    grads[3] += logits.sum(0)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        return *(None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors), None, None
