"""Gradients of an embedding without a tensor as large as the vocabulary, for passes over a few tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F


@contextmanager
def sparse_gradient(embedding: nn.Module) -> Iterator[None]:
    """In this context, gradients are added only to the rows of the weight's gradient that were looked up.

    Torch's own backward pass fills and adds a tensor of the whole vocabulary; its sparse tensors have no storage that can be counted.
    """
    plain = type(embedding) is nn.Embedding and embedding.max_norm is None and not embedding.scale_grad_by_freq
    if not (plain and embedding.weight.requires_grad):
        yield
        return
    embedding.forward = partial(_looked_up, embedding)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del embedding.forward


def _looked_up(embedding: nn.Embedding, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
    return _Lookup.apply(embedding.weight, tokens, embedding.padding_idx)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weight: Float[Tensor, "vocab dim"], tokens: Int[Tensor, "batch length"], padding: int | None) -> Tensor:
        ctx.weight, ctx.tokens, ctx.padding = weight, tokens, padding
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Float[Tensor, "batch length dim"]) -> tuple[None, None, None]:
        if ctx.padding is not None:  # not trained
            grad = grad.masked_fill((ctx.tokens == ctx.padding)[..., None], 0)
        if ctx.weight.grad is None:
            ctx.weight.grad = torch.zeros_like(ctx.weight)
        # Deterministic on both devices: `index_add_` sums in a fixed order on a CPU, `index_put_` on CUDA.
        tokens, rows = ctx.tokens.flatten(), grad.flatten(0, 1)
        if grad.is_cuda:
            ctx.weight.grad.index_put_((tokens,), rows, accumulate=True)
        else:
            ctx.weight.grad.index_add_(0, tokens, rows)
        return None, None, None
