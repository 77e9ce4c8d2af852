"""Which positions does a training sequence get? By itself 0, 1, 2 …; a sampling lets short sequences meet the positions of long ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Sampled:
    """One sequence, drawn from a longer stretch of text."""

    positions: Int[np.ndarray, " length"]  # rising, below the reach
    tokens: Int[np.ndarray, " length+1"]  # indices into the text; the last one is that of the last target
    seams: Bool[np.ndarray, " length+1"]  # true at a token that does not follow on the one before it: it cannot be told from that


class Sampling(ABC):
    word: ClassVar[str]

    @abstractmethod
    def text_length(self, length: int) -> int:
        """Tokens of text that a sequence of `length` tokens is drawn from at most, its last target not counted."""

    @abstractmethod
    def draw(self, random: np.random.Generator, text_length: int, length: int, reach: int) -> Sampled:
        """A sequence of `length` tokens out of `text_length`, neither with its last target, whose positions are below `reach`."""
