"""Randomized positions (Ruoss et al. 2023, arXiv:2305.16843, section 3): a sorted sample of all positions.

The text itself has no gaps; only its positions do, so that every position occurs while sequences stay short. One
departure: the paper also samples positions when it evaluates, at every length. Evaluation here uses positions 0, 1, 2
…, which at the target length is the only possible sample.

Fails if near tokens must be distinguished by their positions: the step to the next token varies, and on average it is
target / sequence length (the PoSE paper, arXiv:2309.10400, section 4, finds the method far behind on text).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from elongate.context.sampling.sampling import Sampled, Sampling

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True, kw_only=True)
class Randomized(Sampling):
    """Sorted random positions."""

    word: ClassVar[str] = "randomized"

    def text_length(self, length: int) -> int:
        return length

    def draw(self, random: Generator, text_length: int, length: int, reach: int) -> Sampled:
        positions = np.sort(random.choice(reach, length, replace=False, shuffle=False))
        return Sampled(positions, np.arange(length + 1), seams=np.zeros(length + 1, dtype=bool))
