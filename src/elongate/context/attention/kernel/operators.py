"""One block of the score matrix: the fused operator that is fastest for it, or the definition where none applies."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from elongate.context.attention.kernel.definition import Definition
from elongate.context.attention.kernel.fused import BIAS_DIMS, CudnnCuda, FlashCpu, FlashCuda
from elongate.context.attention.kernel.tensors import Bias, Keys, LogSumExp, Outputs, Queries, Values
from elongate.errors import ConfigError

Operator = type[FlashCpu | FlashCuda | CudnnCuda | Definition]
Shape = Literal["all", "lower", "upper"]

# With fewer queries, heads that share keys are computed as more queries of one head: larger tiles, less memory traffic.
# At 512 queries × 8192 keys: 77 instead of 71 GFLOP/s forward, 72 instead of 66 backward (docs/findings/speed.md).
_FOLD_BELOW = 1024

OPERATORS = "ELONGATE_ATTENTION"  # environment variable that forces a choice, for comparisons
_NAMES = ("flash", "cudnn", "plain")
_CUDNN_DIM = 128  # largest head size whose gradients cuDNN computes on every card that it is chosen for
# cuDNN prepares each new shape for 90 ms. It is left to the flash operator where that is as fast, and in documents, of any length.
_CUDNN_QUERIES, _CUDNN_MULTIPLE = 2048, 128


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
        return Definition.forward(q, k, v, shape == "lower", scale, bias, softcap)
    if shape == "all" and bias is None and _is_foldable(q, k):
        out, lse = _operator(q, k, v).forward(_folded(q, k), k, v, False, scale)
        return out.reshape(*q.shape[:-1], -1), lse.reshape(q.shape[:-1])
    return _operator(q, k, v, bias).forward(q, k, v, shape == "lower", scale, bias)


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
        return Definition.backward(grad, q, k, v, out, lse, shape == "lower", scale, bias, softcap)
    operator = _operator(q, k, v, bias)
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


def _operator(q: Queries, k: Keys, v: Values, bias: Bias | None = None) -> Operator:
    return _choose(q.device, q.dtype, (q.shape[-1], v.shape[-1]), (q.shape[2], k.shape[2]), bias is not None)


def _choose(device: torch.device, dtype: torch.dtype, dims: tuple[int, int], sizes: tuple[int, int], has_bias: bool) -> Operator:
    """The fastest operator of the device for these head sizes and numbers of queries and keys, else the definition."""
    forced = os.environ.get(OPERATORS, "")
    dim = dims[0]
    if dim != dims[1] or forced == "plain":
        return Definition
    if device.type == "cpu":
        return FlashCpu
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or dim % 8 or dim + BIAS_DIMS * has_bias > 256:
        return Definition
    if has_bias or dim > _CUDNN_DIM or forced == "flash":
        return FlashCuda
    is_regular = sizes[0] >= _CUDNN_QUERIES and all(size % _CUDNN_MULTIPLE == 0 for size in sizes)
    return CudnnCuda if forced == "cudnn" or (is_regular and _prefers_cudnn(device)) else FlashCuda


def _prefers_cudnn(device: torch.device) -> bool:
    """cuDNN is the faster one from Hopper on: 1.5 times at 32,768 tokens. On an A100 the flash operator is."""
    return torch.cuda.get_device_capability(device) >= (9, 0)


def computes_bands(q: Queries, v: Values) -> bool:
    """Whether the operator of the device computes a window in one call."""
    return _choose(q.device, q.dtype, (q.shape[-1], v.shape[-1]), (1, 1), has_bias=False) is FlashCuda


def operator_name(device: torch.device, dtype: torch.dtype, dim: int, length: int, has_bias: bool) -> str:
    """The operator of a whole sequence: flash, cudnn or plain. Raises `ConfigError` if the one that is forced cannot compute it."""
    name = _choose(device, dtype, (dim, dim), (length, length), has_bias).name
    if forced := os.environ.get(OPERATORS):
        if forced not in _NAMES:
            raise ConfigError(OPERATORS, forced, f"must be one of {', '.join(_NAMES)}", "unset the variable")
        if forced != name:
            biased = " with slopes" if has_bias else ""
            rule = f"cannot compute heads of {dim} dimensions{biased} in {str(dtype).removeprefix('torch.')} on {device.type}"
            raise ConfigError(OPERATORS, forced, rule, "unset the variable")
    return name
