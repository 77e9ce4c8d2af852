"""Hands a layout to attention where decoder layers drop the keywords that they do not know (StableLM, Nemotron)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from elongate.context.attention.kernel.interface import IMPLEMENTATION, attention


@contextmanager
def recorded_layouts() -> Iterator[list[bool]]:
    """For each call of our attention in this context, whether a layout arrived there."""
    arrived: list[bool] = []

    def record(module: nn.Module, *tensors: Any, **keywords: Any) -> Any:
        arrived.append(keywords.get("layout") is not None)
        return attention(module, *tensors, **keywords)

    AttentionInterface.register(IMPLEMENTATION, record)
    try:
        yield arrived
    finally:
        AttentionInterface.register(IMPLEMENTATION, attention)


def deliver_layouts(network: nn.Module) -> None:
    """Let every layer pass the layout on in place of the mask, which our attention never has."""
    for layer in network.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.register_forward_pre_hook(_replace_mask, with_kwargs=True)


def _replace_mask(layer: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # A layer that is recomputed is called with the same keywords.
    if keywords.get("layout") is None:
        return args, keywords
    return args, keywords | {"attention_mask": keywords["layout"]}
