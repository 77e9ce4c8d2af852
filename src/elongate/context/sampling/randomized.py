"""Randomized positions (Ruoss et al. 2023, arXiv:2305.16843, section 3): a sorted random sample of the positions below the target.

The text is read as it stands; only its positions have gaps, so that each of them is met while sequences stay short. A departure: the paper
samples at every length when it measures, too. We measure at 0, 1, 2 …, which at the target length is the only sample that there is.

Fails where near tokens must be told apart by their positions: a step to the next token is as long as the target is longer than the
sequence, on average, and never the same (the PoSE paper, arXiv:2309.10400, section 4, finds it far behind on text).
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
    word: ClassVar[str] = "randomized"

    def text_length(self, length: int) -> int:
        return length

    def draw(self, random: Generator, text_length: int, length: int, reach: int) -> Sampled:
        positions = np.sort(random.choice(reach, length, replace=False, shuffle=False))
        return Sampled(positions, np.arange(length + 1), seams=np.zeros(length + 1, dtype=bool))
