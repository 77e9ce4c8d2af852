"""The kernel as an attention implementation of transformers, for every layer that uses its interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from elongate.context.attention.full import Full
from elongate.context.attention.kernel.attend import BatchedRegion, attend, attend_backward, sink_gradient
from elongate.context.attention.kernel.blocks import Range
from elongate.context.attention.kernel.kv_cache import KeyValueCache
from elongate.context.attention.kernel.kv_store import KeyValueStore, Output, Past, StopForward, TokenTensor
from elongate.context.attention.kernel.layer_settings import at_true_positions, chunk_size
from elongate.context.attention.kernel.layout import Layout

IMPLEMENTATION = "elongate"
# Keywords that do not change what attention computes. Networks pass on most of what their forward pass was given.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "deterministic",
        "logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "past_key_values",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


@dataclass(frozen=True)
class Scores:
    """How the scores of a layer are computed from the products of queries and keys, and what is added to them."""

    scale: float
    softcap: float | None  # None: none
    sink: Tensor | None  # one score per head; None: none


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Layout | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls: batch × heads × length × dim to batch × length × heads × dim.

    Without a layout every token sees the whole sequence, or all of it that is not ahead. `s_aux` is the sink of each head.
    """
    if refused := [name for name, value in others.items() if value is not None and name not in _WITHOUT_EFFECT]:
        raise ValueError(f"{type(module).__name__} needs {refused[0]}, which attention in regions does not support")
    if isinstance(attention_mask, Layout):  # see delivery.py
        layout = attention_mask
    elif attention_mask is not None:
        raise ValueError(f"{type(module).__name__} passes a mask, which attention in regions does not support: load the model with sdpa")
    if torch.is_autocast_enabled(query.device.type):
        # Like torch's own call: the rotary embedding returns queries and keys in float32, but values are in bfloat16.
        query, key, value = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (query, key, value))
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal  # as in transformers' own functions
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    count, length, chunks = query.shape[2], key.shape[2], chunk_size(module)
    if chunks is not None and layout is None and count < length >= chunks:
        raise ValueError(f"attention in regions does not support a cache of chunks of {chunks} tokens: load the model with sdpa")
    if layout is None and sliding_window is None and chunks is None and softcap is None and s_aux is None and count in (1, length):
        # torch's own call computes the same and can be compiled.
        plain = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=dropout,
            is_causal=causal and count > 1,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return plain.transpose(1, 2), None
    if layout is not None:
        query = at_true_positions(module, query, layout)
    else:
        layout = Layout.for_batch(Full(), (len(query), length), None, None).for_chunk((length - count, length), None)
    if dropout:
        raise ValueError("attention dropout needs the whole matrix of weights, which attention in regions never computes")
    scores = Scores(scale, softcap, s_aux)
    return _in_regions(module, query, key, value, layout, causal, sliding_window, scores).transpose(1, 2), None


@torch.compiler.disable
def _in_regions(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    causal: bool,
    sliding_window: int | None,
    scores: Scores,
) -> Tensor:
    """Attention by the kernel; uses and fills the layout's store."""
    store, chunks = layout.store, chunk_size(module)
    if isinstance(store, KeyValueCache):
        kept = store.of(store.next_call(module), key, value)
        with torch.no_grad():
            keys, values = kept.append(layout.chunk, key, value, layout.unseen(sliding_window, chunks))
            regions = layout.batched_regions(query.shape[1], causal, sliding_window, chunks, kept.dropped)
            return attend(query, keys, values, regions, scores.scale, scores.softcap, scores.sink)[0]
    regions = layout.batched_regions(query.shape[1], causal, sliding_window, chunks)
    if store is None:
        return _Attend.apply(query, key, value, scores.sink, regions, scores, None)[0]
    call = store.next_call(module)
    stored = store.get_output(call, layout.chunk)
    if store.past is None:
        out, lse = _Attend.apply(query, key, value, scores.sink, regions, scores, stored)
    else:
        past = store.get_past(call, key, value, layout.length)
        with torch.no_grad():
            past.keys.write(*layout.chunk, key)
            past.values.write(*layout.chunk, value)
        if call == store.last:
            raise StopForward
        out, lse = _AttendToPast.apply(query, key, value, scores.sink, past, regions, scores, stored, layout.chunk, store)
    if stored is None:
        store.store_output(call, layout.chunk, layout.length, (out.detach(), lse))
    return out


class _Attend(torch.autograd.Function):
    """Attention of a whole sequence in one call. A stored output is not computed again."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink: Tensor | None,
        regions: Sequence[BatchedRegion],
        scores: Scores,
        stored: Output | None,
    ) -> tuple[Tensor, Tensor]:
        # Detached: tensors returned here become part of the graph, and a stored output would keep that graph alive.
        out, lse = attend(q, k, v, regions, scores.scale, scores.softcap, sink) if stored is None else (x.detach() for x in stored)
        ctx.save_for_backward(q, k, v, sink, out, lse)
        ctx.regions, ctx.scores = regions, scores
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sink, out, lse = ctx.saved_tensors
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_k, grad_v = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
        grad_q = attend_backward(grad, q, k, v, ctx.regions, ctx.scores.scale, out, lse, grad_k, grad_v, ctx.scores.softcap)
        grad_sink = sink_gradient(grad, out, lse, sink) if ctx.needs_input_grad[3] else None
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grad_sink, None, None, None


class _AttendToPast(torch.autograd.Function):
    """A chunk that attends to itself and to stored keys and values.

    Backward passes run from the last chunk to the first. Each adds the gradients of past keys and values to the store,
    and returns those of the chunk's own keys and values, including what later chunks have added.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink: Tensor | None,
        past: Past,
        regions: Sequence[BatchedRegion],
        scores: Scores,
        stored: Output | None,
        chunk: Range,
        store: KeyValueStore,
    ) -> tuple[Tensor, Tensor]:
        keys, values = past.keys.read(0, chunk[1]), past.values.read(0, chunk[1])
        out, lse = stored or attend(q, keys, values, regions, scores.scale, scores.softcap, sink)
        ctx.save_for_backward(q, sink, out, lse)
        ctx.past, ctx.regions, ctx.scores, ctx.chunk, ctx.store = past, regions, scores, chunk, store
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, sink, out, lse = ctx.saved_tensors
        past, (start, stop) = ctx.past, ctx.chunk
        keys, values = past.keys.read(0, stop), past.values.read(0, stop)
        if past.grad_keys is None or past.grad_values is None:
            past.grad_keys, past.grad_values = (_allocate_gradient(x, ctx.store, past.length) for x in (keys, values))
        grad_k, grad_v = past.grad_keys.read(0, stop), past.grad_values.read(0, stop)
        scale, softcap = ctx.scores.scale, ctx.scores.softcap
        grad_q = attend_backward(grad, q, keys, values, ctx.regions, scale, out, lse, grad_k, grad_v, softcap)
        # Copied: the store may change before the gradient is used.
        own = grad_k[:, :, start:].to(keys.dtype, copy=True), grad_v[:, :, start:].to(values.dtype, copy=True)
        past.grad_keys.update(0, stop, grad_k)
        past.grad_values.update(0, stop, grad_v)
        grad_sink = sink_gradient(grad, out, lse, sink) if ctx.needs_input_grad[3] else None
        return grad_q, *own, grad_sink, None, None, None, None, None, None


def _allocate_gradient(stored: Tensor, store: KeyValueStore, length: int) -> TokenTensor:
    """Zeros in at least float32, for all tokens of a sequence."""
    wide = torch.promote_types(stored.dtype, torch.float32)
    return store.allocate((*stored.shape[:2], length, stored.shape[-1]), wide, stored.device)


def _no_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    **others: Any,
) -> None:
    """The mask function of transformers, without a mask. Refuses padding, and caches with space for future tokens."""
    if attention_mask is not None and not bool(attention_mask.all()):
        remedy = "use rows of one length, or load the model with sdpa"
        raise ValueError(f"attention in regions does not support padded batches: {remedy}")
    if int(q_offset) + q_length != kv_offset + kv_length:
        remedy = "use a dynamic cache, or load the model with sdpa"
        raise ValueError(f"attention in regions does not support static caches: {remedy}")


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
