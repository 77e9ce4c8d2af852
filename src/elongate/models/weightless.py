"""A model without weights, for planning: its network is on the meta device, and a miniature answers for it.

Nothing of the size of the weights is allocated, and no weights need to exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from elongate.context.attention.kernel.delivery import deliver_layouts
from elongate.context.position.position import Position
from elongate.models.compatibility import check_network
from elongate.models.language_model import LanguageModel
from elongate.models.miniature import miniature

if TYPE_CHECKING:
    from elongate.context.strategy import Strategy

_FOUND = ("is_causal", "meets_in_attention", "separates_documents", "continues_from_cache", "receives_layouts", "adjustment")


class Weightless:
    """A model without weights and its miniature."""

    def __init__(self, described: LanguageModel, num_layers: int | None) -> None:
        self._described = described
        self.miniature = miniature(described, num_layers)
        self._before = self.miniature.config.to_dict()
        check_network(self.miniature)

    def place(self, position: Position, original_length: int, length: int) -> None:
        """Set the positions."""
        self.miniature.place(position, original_length, length)

    def extended(self, strategy: Strategy, original_length: int, length: int, device: torch.device) -> LanguageModel:
        """Return the model for sequences of `length` tokens, as it is planned on a device that need not exist."""
        self.miniature.positions.rotary.start = strategy.from_
        self.place(strategy.position, original_length, length)
        model = self._described_as_changed()
        model.planned_device = device
        model.attention = strategy.attention.for_length(length, original_length)
        if self.miniature.positions.slopes is not None:
            # Slopes differ by head, which costs nothing.
            model.positions.slopes = (1.0,) * model.config.num_attention_heads
        return model

    def _described_as_changed(self) -> LanguageModel:
        """Return the model whose configuration has changed like that of the miniature."""
        given, small = self._described, self.miniature
        config = given.config
        for key, value in small.config.to_dict().items():
            if value != self._before.get(key):
                setattr(config, key, getattr(small.config, key))
        with torch.device("meta"):
            model = type(given)(type(given.network)(given.network.config), word=given.word)
        trained = {name: parameter.requires_grad for name, parameter in small.network.named_parameters()}
        for name, parameter in model.network.named_parameters():
            parameter.requires_grad_(trained.get(name, parameter.requires_grad))
        vars(model).update({name: getattr(small, name) for name in _FOUND if name != "continues_from_cache"})
        if any(layer._forward_pre_hooks for layer in small.network.modules() if isinstance(layer, GradientCheckpointingLayer)):
            deliver_layouts(model.network)
        model.mask_token, model.precision = given.mask_token, given.precision
        return model
