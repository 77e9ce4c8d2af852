"""The kernel as an attention of transformers: registered once, used by every layer of every model that goes through its interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from elongate.context.attention.full import Full
from elongate.context.attention.kernel.attend import Part, attend, attend_backward
from elongate.context.attention.kernel.blocks import Range
from elongate.context.attention.kernel.kv_store import EnoughError, Kept, Output, Past, Stored
from elongate.context.attention.kernel.layout import Layout

IMPLEMENTATION = "elongate"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: batch × heads × length × dim in, batch × length × heads × dim out. No layout: everyone sees everyone."""
    if refused := [name for name in ("softcap", "s_aux") if others.get(name) is not None]:
        raise ValueError(f"{type(module).__name__} asks for {refused[0]}, which attention in regions does not compute")
    if attention_mask is not None:
        raise ValueError(f"{type(module).__name__} gives a mask, which attention in regions does not read: load the model with sdpa")
    if torch.is_autocast_enabled(query.device.type):
        # As torch's own call does: the rotary embedding leaves queries and keys in float32 and values in bfloat16.
        query, key, value = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (query, key, value))
    causal, scale = getattr(module, "is_causal", True), query.shape[-1] ** -0.5 if scaling is None else scaling
    count, length = query.shape[2], key.shape[2]
    if layout is None and sliding_window is None and count in (1, length):
        # torch's own call, which its compiler knows, where it computes the same.
        plain = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=causal and count > 1, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )
        return plain.transpose(1, 2), None
    if layout is None:
        layout = Layout.of(Full(), (len(query), length), None, None).at((length - count, length), None)
    if dropout:
        raise ValueError("attention dropout needs the whole matrix of weights, which attention in regions never has")
    return _in_regions(module, query, key, value, layout, causal, sliding_window, scale).transpose(1, 2), None


@torch.compiler.disable
def _in_regions(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: Layout, causal: bool, sliding_window: int | None, scale: float
) -> Tensor:
    parts, kept = layout.parts(query.shape[1], causal, sliding_window), layout.kept
    if kept is None:
        return _Attend.apply(query, key, value, parts, scale, None)[0]
    known = kept.output_of(module, layout.chunk)
    if kept.past is None:
        out, lse = _Attend.apply(query, key, value, parts, scale, known)
    else:
        past = kept.past_of(module, key, value, layout.length)
        with torch.no_grad():
            past.keys.write(*layout.chunk, key)
            past.values.write(*layout.chunk, value)
        if module is kept.last:
            raise EnoughError
        out, lse = _AttendToPast.apply(query, key, value, past, parts, scale, known, layout.chunk, kept)
    if known is None:
        kept.keep_output(module, layout.chunk, layout.length, (out.detach(), lse))
    return out


class _Attend(torch.autograd.Function):
    """The whole sequence at once. An output that is known is not computed again."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], scale: float, known: Output | None
    ) -> tuple[Tensor, Tensor]:
        # As new tensors: the outputs of an operator become a part of its graph, and what is kept for longer would hold the graph.
        out, lse = attend(q, k, v, parts, scale) if known is None else (x.detach() for x in known)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.parts, ctx.scale = parts, scale
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_k, grad_v = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
        grad_q = attend_backward(grad, q, k, v, ctx.parts, ctx.scale, out, lse, grad_k, grad_v)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None, None


class _AttendToPast(torch.autograd.Function):
    """A chunk that attends to itself and to stored keys and values. Chunks go backward from last to first.

    The gradients of past keys and values are left with them; those of the chunk's own take up what later chunks have left.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        past: Past,
        parts: Sequence[Part],
        scale: float,
        known: Output | None,
        chunk: Range,
        kept: Kept,
    ) -> tuple[Tensor, Tensor]:
        keys, values = past.keys.read(0, chunk[1]), past.values.read(0, chunk[1])
        out, lse = known or attend(q, keys, values, parts, scale)
        ctx.save_for_backward(q, out, lse)
        ctx.past, ctx.parts, ctx.scale, ctx.chunk, ctx.kept = past, parts, scale, chunk, kept
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, out, lse = ctx.saved_tensors
        past, (start, stop) = ctx.past, ctx.chunk
        keys, values = past.keys.read(0, stop), past.values.read(0, stop)
        if past.grad_keys is None or past.grad_values is None:
            past.grad_keys, past.grad_values = (_gradients_of(x, ctx.kept, past.length) for x in (keys, values))
        grad_k, grad_v = past.grad_keys.read(0, stop), past.grad_values.read(0, stop)
        grad_q = attend_backward(grad, q, keys, values, ctx.parts, ctx.scale, out, lse, grad_k, grad_v)
        # Copied: the store may be written to before the gradient is read.
        own = grad_k[:, :, start:].to(keys.dtype, copy=True), grad_v[:, :, start:].to(values.dtype, copy=True)
        past.grad_keys.update(0, stop, grad_k)
        past.grad_values.update(0, stop, grad_v)
        return grad_q, *own, None, None, None, None, None, None


def _gradients_of(stored: Tensor, kept: Kept, length: int) -> Stored:
    """Zeros in float32 or wider."""
    return kept.room((*stored.shape[:2], length, stored.shape[-1]), torch.promote_types(stored.dtype, torch.float32), stored.device)


def _no_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    **others: Any,
) -> None:
    """Layouts say who sees whom. Padding would be ignored, so it is refused; so is a cache that has room for tokens to come."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError("a padded batch cannot be read with attention in regions: give rows of one length, or load the model with sdpa")
    if int(q_offset) + q_length != kv_offset + kv_length:
        raise ValueError("a static cache cannot be read with attention in regions: use a dynamic one, or load the model with sdpa")


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
