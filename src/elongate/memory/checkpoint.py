"""Keeps layer inputs and recomputes the rest in the backward pass (Chen et al. 2016, arXiv:1604.06174).

Works for every model, bidirectional ones included. Attention outputs are kept if they fit, because
attention dominates the cost of long sequences. The MLP runs in pieces, and logits of a whole sequence
never exist (objectives/cross_entropy.py).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from elongate.errors import ConfigError, require
from elongate.memory.memory import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from elongate.context.attention.kernel.kv_store import KeyValueStore
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Plan):
    """Recomputes each layer in the backward pass."""

    micro_batch_tokens: int = 4096  # tokens in one forward and backward, rounded to whole sequences, at least one
    keep_attention: bool = True  # attention outputs, as many bytes as the layer inputs; false: recomputed
    mlp_chunk_length: int = 2048  # tokens that the MLP processes at a time, at least 1

    word: ClassVar[str] = "checkpoint"
    can_compile: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("micro_batch_tokens", "mlp_chunk_length"):
            value, default = getattr(self, name), getattr(Checkpoint, name)
            require(value > 0, name, value, "must be at least 1", f"use {{key}}={default}")

    @property
    def pass_tokens(self) -> int:
        return self.micro_batch_tokens

    @property
    def fixed_tokens(self) -> int:
        return self.mlp_chunk_length

    def variants(self) -> Iterator[Plan]:
        yield replace(self, keep_attention=True)
        yield replace(self, keep_attention=False)

    def check_model(self, model: LanguageModel) -> None:
        if not model.network.supports_gradient_checkpointing:
            rule = f"cannot train a {model.network.config.model_type}: transformers cannot recompute its layers"
            raise ConfigError("memory", self.word, rule, "use memory=plain")

    def prepare(self, model: LanguageModel, length: int) -> Self:
        super().prepare(model, length)
        model.network.activation_checkpointing_enable({"use_reentrant": False})
        for mlp in _mlps(model.network):
            mlp.forward = partial(_apply_in_pieces, mlp.forward, self.mlp_chunk_length)
        return self

    def backward(self, model: LanguageModel, example: Example) -> float:
        from elongate.context.attention.kernel.kv_store import KeyValueStore
        from elongate.objectives.loss import summed_loss

        # Divide by the count of the whole batch: a mean of means would weight tokens unequally.
        count = example.weight / example.share
        total = 0.0
        for part in example.parts(self.rows(example.length)):
            layout = model.layout(part.inputs, part.positions)
            store = KeyValueStore(outputs={}) if self.keep_attention else None
            with _recomputed(model.network, store):
                hidden = model.hidden(part.inputs, part.positions, layout.for_chunk(layout.chunk, store), part.context)
                loss = summed_loss(model, hidden, part) / count
                loss.backward()
            total += loss.item()
        return total


@contextmanager
def _recomputed(network: nn.Module, store: KeyValueStore | None) -> Iterator[None]:
    """Let the recomputation of each layer find the attention outputs that the layer stored."""
    from torch.utils.checkpoint import checkpoint

    if store is None:
        yield
        return
    recompute = partial(checkpoint, use_reentrant=False, context_fn=store.recomputation)
    layers: list[Any] = [module for module in network.modules() if hasattr(module, "_gradient_checkpointing_func")]
    functions = [layer._gradient_checkpointing_func for layer in layers]
    for layer in layers:
        layer._gradient_checkpointing_func = recompute
    try:
        yield
    finally:  # a function that refers to the store would keep its memory
        for layer, function in zip(layers, functions, strict=True):
            layer._gradient_checkpointing_func = function


def _mlps(network: nn.Module) -> list[nn.Module]:
    """Return the modules that process each token on its own, found by the name that transformers gives them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    return [layer.mlp for layer in layers if hasattr(layer, "mlp")]


def _apply_in_pieces(forward: Callable[..., Any], size: int, states: Tensor, *others: Tensor | None) -> Any:
    """Apply the module to a few tokens at a time and recompute each piece in the backward pass."""
    import torch
    from torch.utils.checkpoint import checkpoint

    if states.shape[1] <= size:
        return forward(states, *others)
    # GPT-2 flattens rows and tokens with a view, so each piece must be contiguous. Cloned: a router with noise
    # (Mixtral) changes the piece in place. MLPs of BLOOM and MPT also take the residual, and those of ZAYA what the
    # router of the layer before returned, which the first layer does not have.
    count = math.ceil(states.shape[1] / size)
    cut = (
        [None] * count if whole is None else [part.clone(memory_format=torch.contiguous_format) for part in whole.split(size, dim=1)]
        for whole in (states, *others)
    )
    pieces = list(zip(*cut, strict=True))
    if not torch.is_grad_enabled():
        return _joined([forward(*piece) for piece in pieces], len(states))
    return _joined([checkpoint(forward, *piece, use_reentrant=False) for piece in pieces], len(states))


def _joined(pieces: list[Any], rows: int) -> Any:
    """Join what the module returned for each piece: states, or several tensors with a row per token (gpt-oss)."""
    import torch

    if isinstance(pieces[0], tuple):
        return tuple(_joined(list(parts), rows) for parts in zip(*pieces, strict=True))
    if pieces[0].ndim > 2:
        return torch.cat(pieces, dim=1)
    return torch.cat([piece.unflatten(0, (rows, -1)) for piece in pieces], dim=1).flatten(0, 1)
