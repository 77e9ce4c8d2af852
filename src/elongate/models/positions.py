"""The positions of a network: rotary embeddings, a learned table, or slopes that replace both.

`NetworkPositions` is what a context position acts on (`Positioned` in context/position/position.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from elongate.context.position.none import Unchanged
from elongate.context.position.position import Position
from elongate.errors import ConfigError
from elongate.models.parts import language_body, language_config, layer_config
from elongate.models.rotary import RotaryPositions
from elongate.models.tables import LearnedPositions
from elongate.models.trained_length import length_key


class NetworkPositions:
    """Sets the positions of a network and numbers the tokens of a call."""

    def __init__(self, network: PreTrainedModel) -> None:
        self.network, self.config = network, language_config(network)
        self.rotary = RotaryPositions(network)
        self.learned = LearnedPositions(network)
        self.slopes: tuple[float, ...] | None = None  # subtracted from a head's scores per token of distance
        self.current: Position = Unchanged()
        self.lengths = (0, 0)  # original and present length, once a position was set
        self.sampled_below: int | None = None  # given positions are sampled below it; None: they number the tokens

    @property
    def has(self) -> frozenset[str]:
        """Return the kind of positions, in the words that strategies use."""
        if self.slopes is not None:
            return frozenset({"computed_positions"})
        if self.rotary:
            return frozenset({"rotary", "computed_positions"})
        if self.learned:
            return frozenset({"learned_positions"})
        return frozenset() if self._has_other_table else frozenset({"computed_positions"})

    @cached_property
    def _has_other_table(self) -> bool:
        """Return whether the network keeps numbers per position that are neither rotary nor a known table.

        Without any, as in many hybrids, it reads texts of every length.
        """
        key, body = length_key(self.config), language_body(self.network)
        reach = 0 if key is None else getattr(self.config, key)
        tokens = body.get_input_embeddings()  # type: ignore[operator]  # every network of transformers has them
        tables = [module for module in body.modules() if isinstance(module, nn.Embedding) and module is not tokens]
        return any(table.num_embeddings >= reach for table in tables) or any(b.ndim > 1 and max(b.shape) >= reach for b in body.buffers())

    @property
    def reach(self) -> int:
        """Return the length in tokens that the positions reach to at present. Raises `ConfigError`."""
        config = self.config
        if (key := length_key(config)) is None:
            rule = f"is a {config.model_type}, whose configuration does not say how long it was trained"
            remedy = "name a checkpoint whose config.json states it as max_position_embeddings or seq_length"
            raise ConfigError("model.source", self.network.config.name_or_path, rule, remedy)
        return self.learned.length if self.learned else int(getattr(config, key))

    def place(self, position: Position, original_length: int, length: int) -> dict[str, Any]:
        """Set the positions for sequences of `length` tokens and return the evidence that they are active."""
        if not position.changes_model and not self.current.is_plain:
            # The position that was set when the checkpoint was opened is the one it was trained with.
            position = self.current
        self.current, self.lengths = position, (original_length, length)
        if not (self.rotary or self.learned):
            reach = max(length, self.reach)
            setattr(self.config, str(length_key(self.config)), reach)
        return position.act(self, original_length, length)

    def set_slopes(self, slopes: Callable[[int], Float[np.ndarray, " heads"]], length: int) -> list[float]:
        """Switch the network's own positions off, and return the slopes of its heads, which the attention applies."""
        config = self.config
        self.slopes = tuple(slopes(layer_config(config).num_attention_heads).tolist())
        if self.learned:
            self.learned.switch_off(length)
        elif self.rotary:
            config.max_position_embeddings = length
        return list(self.slopes)

    def set_text_length(self, length: int, positions: Int[Tensor, "batch length"] | None) -> None:
        """Set the frequencies that depend on the length of the text."""
        self.rotary.read(length if positions is None or self.sampled_below is None else self.sampled_below)

    def last(self, wanted: int) -> int:
        """Return `wanted`, or the last position of the table if that is smaller."""
        return min(wanted, self.learned.length - 1) if self.learned and self.slopes is None else wanted

    def numbers(
        self,
        inputs: Int[Tensor, "batch chunk"],
        positions: Int[Tensor, "batch length"] | None,
        chunk: tuple[int, int],
        rotated_by_kernel: bool,
    ) -> Int[Tensor, "batch chunk"] | None:
        """Return the `position_ids` of a chunk of the sequences; None: the network counts from 0 itself."""
        start, stop = chunk
        if rotated_by_kernel or self.slopes is not None:
            # At position 0 the network rotates by nothing: the regions rotate queries and keys, or only slopes act.
            positions = torch.zeros_like(inputs)
        elif positions is not None:
            positions = positions[:, start:stop]
        elif start or self.learned.first:
            positions = torch.arange(start, stop, device=inputs.device).expand_as(inputs)
        return None if positions is None else positions + self.learned.first
