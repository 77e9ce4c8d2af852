"""One block of the score matrix: torch's fused operator of each device, or the definition where none applies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Queries = Float[Tensor, "batch heads queries dim"]
Keys = Float[Tensor, "batch kv_heads keys dim"]
Values = Float[Tensor, "batch kv_heads keys value_dim"]  # as wide as the keys, except in latent attention
Outputs = Float[Tensor, "batch heads queries value_dim"]
LogSumExp = Float[Tensor, "batch heads queries"]

Shape = Literal["all", "lower", "upper"]

# With fewer queries, heads that share keys are computed as more queries of one head: larger tiles, less memory traffic.
# At 512 queries × 8192 keys: 77 instead of 71 GFLOP/s forward, 72 instead of 66 backward (docs/findings/speed.md).
_FOLD_BELOW = 1024
_QUERIES_AT_ONCE = 512  # queries whose scores exist at the same time without a fused operator


@dataclass(frozen=True)
class Bias:
    """Subtracted from a block's scores: the slope of the head times the distance of the key from a reference key.

    It does not depend on the query, so it is one row of numbers per head.
    """

    slopes: Float[Tensor, " heads"]
    distances: Int[Tensor, "#batch keys"]  # at least 0

    def rows(self, dtype: torch.dtype) -> Float[Tensor, "#batch heads 1 keys"]:
        """The numbers to add to the scores, in the given precision, at least float32."""
        return (-self.slopes[:, None, None] * self.distances[:, None, None]).to(torch.promote_types(dtype, torch.float32))

    def flipped(self) -> Bias:
        """The bias of the keys in reverse order."""
        return replace(self, distances=self.distances.flip(1))


def block_forward(
    q: Queries,
    k: Keys,
    v: Values,
    shape: Shape,
    scale: float,
    bias: Bias | None = None,
    softcap: float | None = None,
) -> tuple[Outputs, LogSumExp]:
    """Softmax attention within one block, and the log-sum-exp of its scores.

    With a softcap c, a score s becomes c · tanh(s / c) before its bias is added (Gemma 2, arXiv:2408.00118, section 2).
    """
    if shape == "upper":  # in reverse order it is a lower half
        out, lse = block_forward(q.flip(2), k.flip(2), v.flip(2), "lower", scale, bias and bias.flipped(), softcap)
        return out.flip(2), lse.flip(2)
    if softcap is not None:
        return _Definition.forward(q, k, v, shape == "lower", scale, bias, softcap)
    if shape == "all" and bias is None and _is_foldable(q, k):
        out, lse = _operator(q, v).forward(_folded(q, k), k, v, False, scale)
        return out.reshape(*q.shape[:-1], -1), lse.reshape(q.shape[:-1])
    return _operator(q, v, bias).forward(q, k, v, shape == "lower", scale, bias)


def block_backward(
    grad: Outputs,
    q: Queries,
    k: Keys,
    v: Values,
    out: Outputs,
    lse: LogSumExp,
    shape: Shape,
    scale: float,
    bias: Bias | None = None,
    softcap: float | None = None,
) -> tuple[Queries, Keys, Values]:
    """The block's share of the gradients, given output and log-sum-exp of the whole attention."""
    if shape == "upper":
        grad, q, k, v, out, lse = (x.flip(2) for x in (grad, q, k, v, out, lse))
        dq, dk, dv = block_backward(grad, q, k, v, out, lse, "lower", scale, bias and bias.flipped(), softcap)
        return dq.flip(2), dk.flip(2), dv.flip(2)
    if softcap is not None:
        return _Definition.backward(grad, q, k, v, out, lse, shape == "lower", scale, bias, softcap)
    operator = _operator(q, v, bias)
    if shape == "all" and bias is None and _is_foldable(q, k):
        grad_folded, q_folded, out_folded = (_folded(x, k) for x in (grad, q, out))
        lse_folded = _folded(lse[..., None], k)[..., 0]
        dq, dk, dv = operator.backward(grad_folded, q_folded, k, v, out_folded, lse_folded, False, scale)
        return dq.reshape(q.shape), dk, dv
    return operator.backward(grad, q, k, v, out, lse, shape == "lower", scale, bias)


def _is_foldable(q: Queries, k: Keys) -> bool:
    return q.shape[1] > k.shape[1] and q.shape[2] < _FOLD_BELOW


def _folded(x: Tensor, k: Keys) -> Tensor:
    """Heads that share keys, concatenated as queries of one head."""
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


class _FlashCpu:
    """The CPU operator; its mask may be a single row for all queries, which is not expanded."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, bias: Bias | None = None) -> tuple[Tensor, Tensor]:
        mask = None if bias is None else bias.rows(q.dtype)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        mask = None if bias is None else bias.rows(q.dtype)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, attn_mask=mask, scale=scale
        )


class _FlashCuda:
    """The CUDA operator; it takes no mask (see `_BiasInDimensions`)."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, bias: Bias | None = None) -> tuple[Tensor, Tensor]:
        if bias is not None:
            return _BiasInDimensions(_FlashCuda, bias, scale).forward(q, k, v, causal)
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)[:2]

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        if bias is not None:
            return _BiasInDimensions(_FlashCuda, bias, scale).backward(grad, q, k, v, out, lse, causal)
        unused = torch.zeros((), dtype=torch.uint64, device=q.device)  # random state of a dropout of 0
        sizes = (None, None, q.shape[2], k.shape[2])
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse.contiguous(), *sizes, 0.0, causal, unused, unused, scale=scale
        )


@dataclass(frozen=True)
class _BiasInDimensions:
    """A bias in additional dimensions, for an operator that takes none: slopes in queries, distances in keys.

    bfloat16 has 8 bits of precision, so distances are cut into digits of 8 bits (up to 2²⁴) and slopes into two parts
    (16 bits): six products, and two zeros to make a multiple of eight. Values must be as wide and are padded with
    zeros.
    """

    operator: type[_FlashCpu | _FlashCuda]
    bias: Bias
    scale: float

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        out, lse = self.operator.forward(self._queries(q), self._keys(k), _padded(v), causal, self.scale)
        return out[..., : v.shape[-1]], lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = [_padded(x) for x in (grad, v, out)]
        grads = self.operator.backward(wide[0], self._queries(q), self._keys(k), wide[1], wide[2], lse, causal, self.scale)
        dq, dk, dv = (x[..., : q.shape[-1]] for x in grads)
        return dq, dk, dv

    def _queries(self, q: Queries) -> Float[Tensor, "batch heads queries wide"]:
        slopes = -self.bias.slopes / self.scale
        parts = [slopes.to(q.dtype)]
        parts.append((slopes - parts[0]).to(q.dtype))
        products = [part * 256**digit for digit in range(3) for part in parts]
        further = torch.stack([*products, *2 * [torch.zeros_like(parts[0])]], dim=-1)
        return torch.cat([q, further[:, None].expand(*q.shape[:-1], _BIAS_DIMS)], dim=-1)

    def _keys(self, k: Keys) -> Float[Tensor, "batch kv_heads keys wide"]:
        distances = self.bias.distances
        digits = [(distances >> (8 * digit)) & 255 for digit in range(3) for _ in range(2)]
        further = torch.stack([*digits, *2 * [torch.zeros_like(distances)]], dim=-1).to(k.dtype)
        return torch.cat([k, further[:, None].expand(*k.shape[:-1], _BIAS_DIMS)], dim=-1)


_BIAS_DIMS = 8  # dimensions that a bias uses; the CUDA operator takes multiples of eight


def _padded(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, _BIAS_DIMS))


class _Definition:
    """The definition, some queries at a time, where no fused operator applies."""

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
        for start in range(0, q.shape[2], _QUERIES_AT_ONCE):
            scores = _scores(q[:, :, start : start + _QUERIES_AT_ONCE], k, start if causal else None, scale, bias, softcap)[0]
            sums.append(scores.logsumexp(-1))
            weights = (scores - sums[-1][..., None]).exp().to(v.dtype)
            outs.append(_per_group(weights, k) @ v)
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
        for start in range(0, q.shape[2], _QUERIES_AT_ONCE):
            at = slice(start, start + _QUERIES_AT_ONCE)
            scores, slope = _scores(q[:, :, at], k, start if causal else None, scale, bias, softcap)
            weights = (scores - lse[:, :, at, None]).exp()
            grads = _per_group(grad[:, :, at], k)
            dv += _per_group(weights, k).to(v.dtype).mT @ grads
            share = (grad[:, :, at] * out[:, :, at]).sum(-1, keepdim=True)
            dscores = (weights * ((grads @ v.mT).view_as(weights) - share) * slope).to(q.dtype)
            dq[:, :, at] = (_per_group(dscores, k) @ k).reshape_as(q[:, :, at])
            dk += _per_group(dscores, k).mT @ _per_group(q[:, :, at], k)
        return dq, dk, dv


def _scores(
    q: Queries, k: Keys, first: int | None, scale: float, bias: Bias | None, softcap: float | None
) -> tuple[Float[Tensor, "batch heads queries keys"], float | Float[Tensor, "batch heads queries keys"]]:
    """Scores of queries, and their derivatives by the products of queries and keys.

    Causal from query number `first` on, or None: every query sees every key.
    """
    scores = (_per_group(q, k) @ k.mT).reshape(*q.shape[:3], k.shape[2]) * scale
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


def _per_group(x: Tensor, k: Keys) -> Tensor:
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


def _operator(q: Queries, v: Values, bias: Bias | None = None) -> type[_FlashCpu | _FlashCuda | _Definition]:
    """The fused operator of the device if it supports this head size and precision, else the definition."""
    dim = q.shape[-1]
    if dim != v.shape[-1]:
        return _Definition
    if q.device.type == "cpu":
        return _FlashCpu
    if (
        q.device.type == "cuda"
        and q.dtype in (torch.bfloat16, torch.float16)
        and dim % 8 == 0
        and dim + _BIAS_DIMS * (bias is not None) <= 256
    ):
        return _FlashCuda
    return _Definition
