"""PoSE: training at the original length with positions that reach to the target (Zhu et al. 2023, arXiv:2309.10400, section 3).

A sequence is two chunks of a longer stretch of text. The first keeps its positions, the second comes from further on and its positions
skip ahead by a random number, so that over many sequences every relative position below the target is met. This is the sampler of the
authors' code, `train_preprocess_function_pose`: two chunks, the first at position 0, out of at most five times the sequence's length.

Two departures. Stretches are cut from the stream of all documents, not from the beginning of each. The first token of the second chunk
is no target where text was left out before it: it does not follow on what the model reads (the authors score it).

Fails where a task needs many far pairs at once: at most half of a sequence is far from the rest, and nothing in it is in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from elongate.context.sampling.sampling import Sampled, Sampling

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True, kw_only=True)
class Pose(Sampling):
    word: ClassVar[str] = "pose"

    def text_length(self, length: int) -> int:
        return 5 * length

    def draw(self, random: Generator, text_length: int, length: int, reach: int) -> Sampled:
        # Drawn in the order of the published code.
        first = int(random.integers(1, (length + 1) // 2, endpoint=True))
        end = int(random.integers(length, text_length, endpoint=True))
        skip = int(random.integers(0, reach - length, endpoint=True))
        return two_chunks(length, first, end, skip)


def two_chunks(length: int, first: int, end: int, skip: int) -> Sampled:
    """`first` tokens from the start of the text and those that fill the length up before `end`, whose positions skip ahead by `skip`."""
    start = end - (length - first)
    tokens = np.concatenate([np.arange(first), np.arange(start, end + 1)])  # one more than inputs: the last target
    positions = np.arange(length)
    positions[first:] += skip
    seams = np.zeros(length + 1, dtype=bool)
    seams[first] = start != first
    return Sampled(positions, tokens, seams)
