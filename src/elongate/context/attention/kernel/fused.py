"""torch's fused attention operators, all with the same signature: forward returns the log-sum-exp, backward takes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.tensors import Bias, Keys, Queries

BIAS_DIMS = 8  # dimensions that a bias uses; the CUDA operator takes multiples of eight


class FlashCpu:
    """The CPU operator; its mask may be a single row for all queries, which is not expanded."""

    name = "flash"

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


class FlashCuda:
    """The CUDA operator; it takes no mask (see `BiasInDimensions`)."""

    name = "flash"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, bias: Bias | None = None) -> tuple[Tensor, Tensor]:
        if bias is not None:
            return BiasInDimensions(FlashCuda, bias, scale).forward(q, k, v, causal)
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
            return BiasInDimensions(FlashCuda, bias, scale).backward(grad, q, k, v, out, lse, causal)
        unused = torch.zeros((), dtype=torch.uint64, device=q.device)  # random state of a dropout of 0
        sizes = (None, None, q.shape[2], k.shape[2])
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse.contiguous(), *sizes, 0.0, causal, unused, unused, scale=scale
        )


class FlashBand:
    """The CUDA operator on a whole window, in one call."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, band: Block, scale: float) -> tuple[Tensor, Tensor]:
        sizes, inputs = (q.shape[2], k.shape[2]), (x.transpose(1, 2) for x in (q, k, v))
        out, lse = torch.ops.aten._flash_attention_forward(
            *inputs, None, None, *sizes, 0.0, False, False, scale=scale, **FlashBand._sides(band)
        )[:2]
        return out.transpose(1, 2), lse

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, band: Block, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        unused = torch.zeros((), dtype=torch.uint64, device=q.device)  # random state of a dropout of 0
        inputs, sizes = (x.transpose(1, 2) for x in (grad, q, k, v, out)), (None, None, q.shape[2], k.shape[2])
        grads = torch.ops.aten._flash_attention_backward(
            *inputs, lse.contiguous(), *sizes, 0.0, False, unused, unused, scale=scale, **FlashBand._sides(band)
        )
        dq, dk, dv = (x.transpose(1, 2) for x in grads)
        return dq, dk, dv

    @staticmethod
    def _sides(band: Block) -> dict[str, int]:
        """Keys behind and ahead of a query that it sees. With fewer queries than keys, the last query is the last key."""
        return {"window_size_left": band.width - 1, "window_size_right": (band.width - 1) * band.both_sides}


class CudnnCuda:
    """cuDNN's CUDA operator, the fastest on Hopper and newer cards. It prepares each new shape for some milliseconds."""

    name = "cudnn"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, bias: Bias | None = None) -> tuple[Tensor, Tensor]:
        assert bias is None, "the flash operator takes it"
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, scale=scale)[:2]
        return out, lse.view(q.shape[:3])

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
        assert bias is None, "the flash operator takes it"
        unused = torch.zeros((), dtype=torch.int64, device=q.device)  # random state of a dropout of 0
        sizes = (None, None, q.shape[2], k.shape[2])
        return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            grad, q, k, v, out, lse.contiguous()[..., None], unused, unused, None, *sizes, 0.0, causal, scale=scale
        )


@dataclass(frozen=True)
class BiasInDimensions:
    """A bias in additional dimensions, for an operator that takes none: slopes in queries, distances in keys.

    bfloat16 has 8 bits of precision, so distances are cut into digits of 8 bits (up to 2²⁴) and slopes into two parts
    (16 bits): six products, and two zeros to make a multiple of eight. Values must be as wide and are padded with
    zeros.
    """

    operator: type[FlashCpu | FlashCuda]
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
        return torch.cat([q, further[:, None].expand(*q.shape[:-1], BIAS_DIMS)], dim=-1)

    def _keys(self, k: Keys) -> Float[Tensor, "batch kv_heads keys wide"]:
        distances = self.bias.distances
        digits = [(distances >> (8 * digit)) & 255 for digit in range(3) for _ in range(2)]
        further = torch.stack([*digits, *2 * [torch.zeros_like(distances)]], dim=-1).to(k.dtype)
        return torch.cat([k, further[:, None].expand(*k.shape[:-1], BIAS_DIMS)], dim=-1)


def _padded(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, BIAS_DIMS))
