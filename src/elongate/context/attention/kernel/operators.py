"""One block of the score matrix: torch's fused operators for each device, and the definition for what they refuse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Queries = Float[Tensor, "batch heads queries dim"]
Keys = Float[Tensor, "batch kv_heads keys dim"]
Values = Float[Tensor, "batch kv_heads keys value_dim"]  # as wide as the keys but for latent attention
Outputs = Float[Tensor, "batch heads queries value_dim"]
LogSumExp = Float[Tensor, "batch heads queries"]

_FEW = 1024  # queries; below it, heads that share keys are read as more queries: larger tiles, less traffic
_PIECE = 512  # queries whose scores exist at once where no fused operator runs


@dataclass(frozen=True)
class Bias:
    """Taken off the scores of a block: the slope of the query's head times the distance of the key from one that all queries share.

    Without a query in it, it is a row of numbers a head, however many queries there are.
    """

    slopes: Float[Tensor, " heads"]
    distances: Int[Tensor, "#batch keys"]  # at least 0

    def rows(self, dtype: torch.dtype) -> Float[Tensor, "#batch heads 1 keys"]:
        """What is added to the scores, in the given precision, float32 at least."""
        return (-self.slopes[:, None, None] * self.distances[:, None, None]).to(torch.promote_types(dtype, torch.float32))

    def flipped(self) -> Bias:
        return replace(self, distances=self.distances.flip(1))


def block_forward(
    q: Queries, k: Keys, v: Values, shape: Literal["all", "lower", "upper"], scale: float, bias: Bias | None = None
) -> tuple[Outputs, LogSumExp]:
    if shape == "upper":  # read backwards, it is a lower one
        out, lse = block_forward(q.flip(2), k.flip(2), v.flip(2), "lower", scale, bias and bias.flipped())
        return out.flip(2), lse.flip(2)
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
    shape: Literal["all", "lower", "upper"],
    scale: float,
    bias: Bias | None = None,
) -> tuple[Queries, Keys, Values]:
    if shape == "upper":
        grad, q, k, v, out, lse = (x.flip(2) for x in (grad, q, k, v, out, lse))
        dq, dk, dv = block_backward(grad, q, k, v, out, lse, "lower", scale, bias and bias.flipped())
        return dq.flip(2), dk.flip(2), dv.flip(2)
    operator = _operator(q, v, bias)
    if shape == "all" and bias is None and _is_foldable(q, k):
        grads = [_folded(x, k) for x in (grad, q, out)]
        dq, dk, dv = operator.backward(grads[0], grads[1], k, v, grads[2], _folded(lse[..., None], k)[..., 0], False, scale)
        return dq.reshape(q.shape), dk, dv
    return operator.backward(grad, q, k, v, out, lse, shape == "lower", scale, bias)


def _is_foldable(q: Queries, k: Keys) -> bool:
    return q.shape[1] > k.shape[1] and q.shape[2] < _FEW


def _folded(x: Tensor, k: Keys) -> Tensor:
    """Heads that share keys, one after the other as queries of one head."""
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


class _FlashCpu:
    """Its mask may be one row for all queries, and is read as such."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, bias: Bias | None = None) -> tuple[Tensor, Tensor]:
        mask = None if bias is None else bias.rows(q.dtype)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float, bias: Bias | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mask = None if bias is None else bias.rows(q.dtype)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, attn_mask=mask, scale=scale
        )


class _FlashCuda:
    """It takes no mask: see `_Widened`."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, bias: Bias | None = None) -> tuple[Tensor, Tensor]:
        if bias is not None:
            return _Widened(_FlashCuda, bias, scale).forward(q, k, v, causal)
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)[:2]

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float, bias: Bias | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if bias is not None:
            return _Widened(_FlashCuda, bias, scale).backward(grad, q, k, v, out, lse, causal)
        unused = torch.zeros((), dtype=torch.uint64, device=q.device)  # the state of a dropout that is not there
        sizes = (None, None, q.shape[2], k.shape[2])
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse.contiguous(), *sizes, 0.0, causal, unused, unused, scale=scale
        )


@dataclass(frozen=True)
class _Widened:
    """A bias as a product of further dimensions, for an operator that takes none: the slope with the query, the distance with the key.

    bfloat16 has 8 bits: distances are cut into digits of 8 bits (up to 2²⁴), slopes into two parts (16 bits). That fills eight
    dimensions with two zeros; values, which must be as wide, are filled up with zeros.
    """

    operator: type[_FlashCpu | _FlashCuda]
    bias: Bias
    scale: float

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        out, lse = self.operator.forward(self._queries(q), self._keys(k), _zeros_beside(v), causal, self.scale)
        return out[..., : v.shape[-1]], lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = [_zeros_beside(x) for x in (grad, v, out)]
        grads = self.operator.backward(wide[0], self._queries(q), self._keys(k), wide[1], wide[2], lse, causal, self.scale)
        dq, dk, dv = (x[..., : q.shape[-1]] for x in grads)
        return dq, dk, dv

    def _queries(self, q: Queries) -> Float[Tensor, "batch heads queries wide"]:
        slopes = -self.bias.slopes / self.scale
        parts = [slopes.to(q.dtype)]
        parts.append((slopes - parts[0]).to(q.dtype))
        beside = torch.stack([part * 256**digit for digit in range(3) for part in parts] + 2 * [torch.zeros_like(parts[0])], dim=-1)
        return torch.cat([q, beside[:, None].expand(*q.shape[:-1], _BESIDE)], dim=-1)

    def _keys(self, k: Keys) -> Float[Tensor, "batch kv_heads keys wide"]:
        distances = self.bias.distances
        digits = [(distances >> (8 * digit)) & 255 for digit in range(3) for _ in range(2)]
        beside = torch.stack(digits + 2 * [torch.zeros_like(distances)], dim=-1).to(k.dtype)
        return torch.cat([k, beside[:, None].expand(*k.shape[:-1], _BESIDE)], dim=-1)


_BESIDE = 8  # dimensions that a bias takes; the operators of CUDA take multiples of eight


def _zeros_beside(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, _BESIDE))


class _Plain:
    """The definition, some queries at a time, for what the fused operators refuse."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, bias: Bias | None = None) -> tuple[Tensor, Tensor]:
        outs, sums = [], []
        for start in range(0, q.shape[2], _PIECE):
            scores = _scores(q[:, :, start : start + _PIECE], k, start if causal else None, scale, bias)
            sums.append(scores.logsumexp(-1))
            weights = (scores - sums[-1][..., None]).exp().to(v.dtype)
            outs.append(_per_group(weights, k) @ v)
        out = torch.cat([o.reshape(*q.shape[:2], -1, v.shape[-1]) for o in outs], dim=2)
        return out, torch.cat(sums, dim=2)

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float, bias: Bias | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start in range(0, q.shape[2], _PIECE):
            at = slice(start, start + _PIECE)
            weights = (_scores(q[:, :, at], k, start if causal else None, scale, bias) - lse[:, :, at, None]).exp()
            grads = _per_group(grad[:, :, at], k)
            dv += _per_group(weights, k).to(v.dtype).mT @ grads
            share = (grad[:, :, at] * out[:, :, at]).sum(-1, keepdim=True)
            dscores = (weights * ((grads @ v.mT).view_as(weights) - share) * scale).to(q.dtype)
            dq[:, :, at] = (_per_group(dscores, k) @ k).reshape_as(q[:, :, at])
            dk += _per_group(dscores, k).mT @ _per_group(q[:, :, at], k)
        return dq, dk, dv


def _scores(q: Queries, k: Keys, first: int | None, scale: float, bias: Bias | None) -> Float[Tensor, "batch heads queries keys"]:
    """`first` is the number of the first query where no query may see a key after it; None: all see all."""
    scores = (_per_group(q, k) @ k.mT).reshape(*q.shape[:3], k.shape[2]) * scale
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias.rows(q.dtype)
    if first is None:
        return scores
    later = torch.arange(k.shape[2], device=q.device) > torch.arange(first, first + q.shape[2], device=q.device)[:, None]
    return scores.masked_fill(later, -torch.inf)


def _per_group(x: Tensor, k: Keys) -> Tensor:
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


def _operator(q: Queries, v: Values, bias: Bias | None = None) -> type[_FlashCpu | _FlashCuda | _Plain]:
    """The fused operator of the device, where it takes such heads and numbers."""
    dim = q.shape[-1]
    if dim != v.shape[-1]:
        return _Plain
    if q.device.type == "cpu":
        return _FlashCpu
    if (
        q.device.type == "cuda"
        and q.dtype in (torch.bfloat16, torch.float16)
        and dim % 8 == 0
        and dim + _BESIDE * (bias is not None) <= 256
    ):
        return _FlashCuda
    return _Plain
