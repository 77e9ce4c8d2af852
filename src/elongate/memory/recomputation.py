"""Layers that keep only their inputs and are computed again in the backward pass, one at a time."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from elongate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PreTrainedModel

    from elongate.context.attention.kernel.kv_store import KeyValueStore
    from elongate.models.language_model import LanguageModel


def check_recomputation(model: LanguageModel, word: str) -> None:
    """Raise `ConfigError` if transformers cannot recompute the layers of the network."""
    if not model.network.supports_gradient_checkpointing:
        rule = f"cannot train a {model.network.config.model_type}: transformers cannot recompute its layers"
        raise ConfigError("memory", word, rule, "use memory=plain")


def enable_recomputation(network: PreTrainedModel) -> None:
    """Let the layers keep only their inputs."""
    network.activation_checkpointing_enable({"use_reentrant": False})


@contextmanager
def recomputed(network: nn.Module, store: KeyValueStore | None) -> Iterator[None]:
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


def layers_of(network: nn.Module) -> list[nn.Module]:
    """Return the layers that are recomputed."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
