"""Attention within one block by its definition, where no fused operator applies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from elongate.context.attention.kernel.tensors import Bias, Keys, Queries

QUERIES_AT_ONCE = 512  # queries whose scores exist at the same time


class Definition:
    """The definition, some queries at a time, where no fused operator applies."""

    name = "plain"

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        scale: float,
        bias: Bias | None = None,
        softcap: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        outs, sums = [], []
        for start in range(0, q.shape[2], QUERIES_AT_ONCE):
            scores = _scores(q[:, :, start : start + QUERIES_AT_ONCE], k, start if causal else None, scale, bias, softcap)[0]
            sums.append(scores.logsumexp(-1))
            weights = (scores - sums[-1][..., None]).exp().to(v.dtype)
            outs.append(per_group(weights, k) @ v)
        out = torch.cat([o.reshape(*q.shape[:2], -1, v.shape[-1]) for o in outs], dim=2)
        return out, torch.cat(sums, dim=2)

    @staticmethod
    def backward(
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
        bias: Bias | None = None,
        softcap: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start in range(0, q.shape[2], QUERIES_AT_ONCE):
            at = slice(start, start + QUERIES_AT_ONCE)
            scores, slope = _scores(q[:, :, at], k, start if causal else None, scale, bias, softcap)
            weights = (scores - lse[:, :, at, None]).exp()
            grads = per_group(grad[:, :, at], k)
            dv += per_group(weights, k).to(v.dtype).mT @ grads
            share = (grad[:, :, at] * out[:, :, at]).sum(-1, keepdim=True)
            dscores = (weights * ((grads @ v.mT).view_as(weights) - share) * slope).to(q.dtype)
            dq[:, :, at] = (per_group(dscores, k) @ k).reshape_as(q[:, :, at])
            dk += per_group(dscores, k).mT @ per_group(q[:, :, at], k)
        return dq, dk, dv


def _scores(
    q: Queries, k: Keys, first: int | None, scale: float, bias: Bias | None, softcap: float | None
) -> tuple[Float[Tensor, "batch heads queries keys"], float | Float[Tensor, "batch heads queries keys"]]:
    """Scores of queries, and their derivatives by the products of queries and keys.

    Causal from query number `first` on, or None: every query sees every key.
    """
    scores = (per_group(q, k) @ k.mT).reshape(*q.shape[:3], k.shape[2]) * scale
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))
    slope: float | Tensor = scale
    if softcap is not None:
        bounded = (scores / softcap).tanh()
        scores, slope = bounded * softcap, (1 - bounded.square()) * scale
    if bias is not None:
        scores = scores + bias.rows(q.dtype)
    if first is None:
        return scores, slope
    later = torch.arange(k.shape[2], device=q.device) > torch.arange(first, first + q.shape[2], device=q.device)[:, None]
    return scores.masked_fill(later, -torch.inf), slope


def per_group(x: Tensor, k: Keys) -> Tensor:
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])
