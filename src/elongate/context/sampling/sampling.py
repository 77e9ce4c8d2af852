"""Which positions does a training sequence get? A sampling trains long positions on short sequences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Sampled:
    """A sequence drawn from a longer text."""

    positions: Int[np.ndarray, " length"]  # increasing, below the reach
    tokens: Int[np.ndarray, " length+1"]  # indices into the text; the last one is the last target
    seams: Bool[np.ndarray, " length+1"]  # true at a token that does not follow on the token before it: not a target


class Sampling(ABC):
    """A rule that draws sequences with positions of a longer text."""

    word: ClassVar[str]

    @abstractmethod
    def text_length(self, length: int) -> int:
        """Largest number of text tokens that a sequence of `length` tokens is drawn from, without its last target."""

    @abstractmethod
    def draw(self, random: np.random.Generator, text_length: int, length: int, reach: int) -> Sampled:
        """Draws `length` tokens out of `text_length`, both without the last target, with positions below `reach`."""
