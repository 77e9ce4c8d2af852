"""PoSE (Zhu et al. 2023, arXiv:2309.10400, section 3): short sequences with positions up to the target.

A sequence consists of two chunks of a longer text. The first keeps its positions; the second comes from further on,
and its positions skip ahead by a random number, so that every relative position below the target occurs over many
sequences. This is the sampler of the authors' code, `train_preprocess_function_pose`: two chunks, the first at
position 0, out of at most five times the sequence length.

Two departures. Texts are cut from the stream of all documents, not from the beginning of each. The first token of the
second chunk is not a target if text was left out before it, because it does not follow on what the model reads (the
authors score it).

Fails for tasks that need many far pairs: at most half of a sequence is far from the rest, and nothing is in between.
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
    """Two chunks with a gap between their positions."""

    word: ClassVar[str] = "pose"

    def text_length(self, length: int) -> int:
        return 5 * length

    def draw(self, random: Generator, text_length: int, length: int, reach: int) -> Sampled:
        # In the order of the published code.
        first = int(random.integers(1, (length + 1) // 2, endpoint=True))
        end = int(random.integers(length, text_length, endpoint=True))
        skip = int(random.integers(0, reach - length, endpoint=True))
        return two_chunks(length, first, end, skip)


def two_chunks(length: int, first: int, end: int, skip: int) -> Sampled:
    """Joins the first `first` tokens of a text and the tokens before `end` that complete the length.

    The positions of the second part skip ahead by `skip`.
    """
    start = end - (length - first)
    tokens = np.concatenate([np.arange(first), np.arange(start, end + 1)])  # one more than the inputs: the last target
    positions = np.arange(length)
    positions[first:] += skip
    seams = np.zeros(length + 1, dtype=bool)
    seams[first] = start != first
    return Sampled(positions, tokens, seams)
