"""An MLP that processes a few tokens at a time, so that its wide activations never exist for a whole sequence.

Within a layer that is recomputed, `torch.utils.checkpoint` would compute every piece a third time: it ends a recomputation when
the last saved tensor is there, which would be the input of the last piece. Here the inputs of all pieces are saved before the
first is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint


def apply_in_pieces(forward: Callable[..., Any], size: int, states: Tensor, *others: Tensor | None) -> Any:
    """Apply a module to `size` tokens of states batch × length × dim at a time, and again in the backward pass."""
    if states.shape[1] <= size:
        return forward(states, *others)
    # GPT-2 flattens rows and tokens with a view, so each piece must be contiguous. MLPs of BLOOM and MPT also take the
    # residual, and those of ZAYA what the router of the layer before returned, which the first layer does not have.
    count = math.ceil(states.shape[1] / size)
    cut = ([None] * count if whole is None else [part.contiguous() for part in whole.split(size, dim=1)] for whole in (states, *others))
    pieces = list(zip(*cut, strict=True))
    if not torch.is_grad_enabled():
        return _joined([_run(forward, *piece) for piece in pieces], len(states))
    if not states.requires_grad:  # without a node that could keep the states
        return _joined([checkpoint(partial(_run, forward), *piece, use_reentrant=False) for piece in pieces], len(states))
    kept = [tuple(x if x is None or not x.requires_grad else _Keep.apply(x) for x in piece) for piece in pieces]
    return _joined([_Piece.apply(forward, [x.grad_fn if x is not None else None for x in piece], *piece) for piece in kept], len(states))


class _Keep(torch.autograd.Function):
    """Saves a tensor, and passes it on."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        ctx.save_for_backward(tensor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor | None) -> Tensor | None:
        return grad


class _Piece(torch.autograd.Function):
    """Computes a piece twice: without a graph, and with one in the backward pass. Its inputs are in the nodes that kept them."""

    @staticmethod
    def forward(ctx: FunctionCtx, forward: Callable[..., Any], nodes: list[Any], states: Tensor, *others: Tensor | None) -> Any:
        inputs = states, *others
        ctx.run, ctx.nodes = forward, nodes
        ctx.constants = [x if node is None else None for x, node in zip(inputs, nodes, strict=True)]
        ctx.kind = states.device.type
        ctx.autocast = {"dtype": torch.get_autocast_dtype(ctx.kind), "enabled": torch.is_autocast_enabled(ctx.kind)}
        ctx.card = states.device if states.is_cuda and torch.cuda.is_available() else None  # a plan can be for a card that is not here
        ctx.random = torch.get_rng_state(), None if ctx.card is None else torch.cuda.get_rng_state(ctx.card)
        return _run(forward, *inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Any, ...]:
        inputs = [
            constant if node is None else node.saved_tensors[0].detach().requires_grad_()
            for node, constant in zip(ctx.nodes, ctx.constants, strict=True)
        ]
        state, card_state = ctx.random
        with torch.random.fork_rng([] if ctx.card is None else [ctx.card]), torch.enable_grad(), torch.autocast(ctx.kind, **ctx.autocast):
            torch.set_rng_state(state)
            if ctx.card is not None:
                torch.cuda.set_rng_state(card_state, ctx.card)
            result = _run(ctx.run, *inputs)
        results = result if isinstance(result, tuple) else (result,)
        pairs = [(some, grad) for some, grad in zip(results, grads, strict=True) if grad is not None and some.requires_grad]
        torch.autograd.backward(*zip(*pairs, strict=True))
        return None, None, *(None if x is None else x.grad for x in inputs)


def _run(forward: Callable[..., Any], *inputs: Tensor | None) -> Any:
    """A router with noise (Mixtral) changes its input in place, so it gets a copy."""
    return forward(*(None if x is None else x.clone() for x in inputs))


def _joined(pieces: list[Any], rows: int) -> Any:
    """Join what the module returned for each piece: states, or several tensors with a row per token (gpt-oss)."""
    if isinstance(pieces[0], tuple):
        return tuple(_joined(list(parts), rows) for parts in zip(*pieces, strict=True))
    if pieces[0].ndim > 2:
        return torch.cat(pieces, dim=1)
    return torch.cat([piece.unflatten(0, (rows, -1)) for piece in pieces], dim=1).flatten(0, 1)
