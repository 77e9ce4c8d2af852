"""Rotary frequencies, scaled: pure functions of the lengths.

`frequencies` is the closed form, in float64, against which the built model is verified. `read_frequencies` is the
same for a text of a given length, for methods that depend on it. `rope_parameters` expresses the method in plain
transformers, complete, so that an exported model needs nothing of this package.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.position import Position, Positioned
from elongate.context.position.rotary import Rotary
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Scaling(Position):
    """A position that changes the frequencies of rotary embeddings."""

    layers: str = "full"  # where layers have own frequencies by type: full, those that see the whole text; all, windowed ones too

    follows_text: ClassVar[bool] = False  # every length of the text has its own frequencies

    def __post_init__(self) -> None:
        require(self.layers in ("full", "all"), "layers", self.layers, "must be full or all", "use {key}=full")

    def needs(self, factor: float) -> frozenset[str]:
        return frozenset({"rotary"})

    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        return model.rotary.set(self, original_length, length)

    @abstractmethod
    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        """Radians per token of each pair of dimensions, in a text of the target length."""

    def read_frequencies(self, rotary: Rotary, factor: float, length: int) -> Float[np.ndarray, " half"]:
        """Radians per token of each pair, in a text of `length` tokens; most methods do not depend on it."""
        return self.frequencies(rotary, factor)

    @abstractmethod
    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        """The `rope_parameters` of a transformers 5 configuration that give the same frequencies."""

    def attention_factor(self, rotary: Rotary, factor: float) -> float:
        """Factor of cosine and sine; attention logits are multiplied by its square."""
        return 1.0

    def stated_length(self, original_length: int, length: int) -> int:
        """`max_position_embeddings` of a configuration that is extended to `length` tokens."""
        return length
