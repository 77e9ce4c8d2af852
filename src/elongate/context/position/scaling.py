"""Rotary frequencies, scaled: pure functions of the lengths.

`frequencies` is the closed form, in float64, that the built model is proved against; `read_frequencies` is the same where it depends on
how long a text is read; `rope_parameters` is how plain transformers expresses it, whole, so that the export needs nothing of ours.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from elongate.context.position.position import Position, Positioned


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding of a model as it was trained (Su et al. 2021, arXiv:2104.09864)."""

    dim: int  # rotated dimensions of a head, even
    theta: float
    original_length: int

    def frequencies(self) -> Float[np.ndarray, " half"]:
        """Radians per token of each pair of dimensions, fastest first."""
        return self.theta ** -(np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)


class Scaling(Position):
    def needs(self, factor: float) -> frozenset[str]:
        return frozenset({"rotary"})

    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        return model.set_frequencies(self, original_length, length)

    @abstractmethod
    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        """Radians per token of each pair of dimensions, in a text of the target length."""

    def read_frequencies(self, rotary: Rotary, factor: float, length: int) -> Float[np.ndarray, " half"]:
        """The same in a text of `length` tokens: most do not depend on it."""
        return self.frequencies(rotary, factor)

    @abstractmethod
    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        """The `rope_parameters` of a transformers 5 configuration that give the same frequencies."""

    def attention_factor(self, rotary: Rotary, factor: float) -> float:
        """Multiplies cosine and sine, so the attention logits by its square."""
        return 1.0

    def stated_length(self, original_length: int, length: int) -> int:
        """`max_position_embeddings` of a configuration that is extended to `length` tokens."""
        return length
