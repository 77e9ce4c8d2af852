"""Sequences from several sources in given shares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from elongate.data.sequences import Batch, SequenceList, Usage

_GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ / φ: the multiples of it, modulo 2⁶⁴, are spread as evenly as numbers can be
_BLOCK = 1 << 16  # sequences whose sources are computed together


class MixedSequences:
    """Each sequence comes from one source. All are of the same length, so shares of sequences are shares of tokens.

    Sequence i belongs to the source in whose part of [0, 1) the number u + i/φ modulo 1 falls, u from the seed. These
    numbers are spread evenly (Weyl 1916), so the shares of the first n sequences are exact but for O(log n) sequences.
    Which sequence of its source it is follows from counting, so everything is a pure function of (seed, index, length).
    """

    def __init__(self, parts: Mapping[str, SequenceList], shares: Mapping[str, float], seed: int) -> None:
        self._names = [name for name in parts if shares[name] > 0]
        self._parts = [parts[name] for name in self._names]
        weights = np.array([shares[name] for name in self._names])
        self._bounds = np.cumsum(weights)[:-1] / weights.sum()  # where the next source begins
        self._offset = int.from_bytes(hashlib.sha256(f"{seed} mixture".encode()).digest()[:8], "little")
        self._block = lru_cache(maxsize=4)(self._compute_block)
        self._before = [np.zeros(len(self._names), dtype=np.int64)]  # sequences of each source before each block

    def batch(self, first: int, count: int) -> Batch:
        """Sequences first … first + count - 1."""
        rows = [self._row(index) for index in range(first, first + count)]
        return stacked([self._parts[source].batch(place, 1) for source, place in rows])

    def usage(self, count: int) -> dict[str, Usage]:
        """What the first `count` sequences read of each source."""
        counts = self._counts(count)
        return {name: part.usage(int(n))[""] for name, part, n in zip(self._names, self._parts, counts, strict=True)}

    def sources(self, first: int, count: int) -> list[str]:
        """The name of the source of each sequence."""
        return [self._names[self._row(index)[0]] for index in range(first, first + count)]

    def _row(self, index: int) -> tuple[int, int]:
        """The source of a sequence, and its index within it."""
        number, place = divmod(index, _BLOCK)
        sources, ranks = self._block(number)
        source = int(sources[place])
        return source, int(self._before[number][source] + ranks[place])

    def _counts(self, stop: int) -> np.ndarray:
        """How many of the first `stop` sequences come from each source."""
        number, place = divmod(stop, _BLOCK)
        sources, _ = self._block(number)
        return self._before[number] + np.bincount(sources[:place], minlength=len(self._names))

    def _compute_block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each sequence of a block, and how many of the same source precede it in the block."""
        while len(self._before) <= number:
            counts = np.bincount(self._sources(len(self._before) - 1), minlength=len(self._names))
            self._before.append(self._before[-1] + counts)
        sources = self._sources(number)
        ranks = np.empty(_BLOCK, dtype=np.int64)
        for source in range(len(self._names)):
            found = np.flatnonzero(sources == source)
            ranks[found] = np.arange(len(found))
        return sources, ranks

    def _sources(self, number: int) -> np.ndarray:
        indices = np.arange(number * _BLOCK, (number + 1) * _BLOCK, dtype=np.uint64)
        spread = indices * np.uint64(_GOLDEN) + np.uint64(self._offset)  # modulo 2⁶⁴
        return np.searchsorted(self._bounds, spread / 2.0**64, side="right")


def stacked(batches: list[Batch]) -> Batch:
    """The rows of all batches. Rows that isolate no documents get their plain positions if others isolate theirs."""
    tokens = np.concatenate([batch.tokens for batch in batches])
    positions = starts = scored = None
    if any(batch.positions is not None for batch in batches):
        plain = np.arange(tokens.shape[1] - 1)[None]
        positions = np.concatenate([plain if batch.positions is None else batch.positions for batch in batches])
        none = np.zeros((1, tokens.shape[1]), dtype=bool)
        starts = np.concatenate([none if batch.starts is None else batch.starts for batch in batches])
    if any(batch.scored is not None for batch in batches):
        every = np.ones((1, tokens.shape[1]), dtype=bool)
        scored = np.concatenate([every if batch.scored is None else batch.scored for batch in batches])
    return Batch(tokens, positions, starts, scored)
