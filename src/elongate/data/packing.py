"""Best-fit packing: whole documents share a sequence, so few are cut (Ding et al. 2024, arXiv:2404.10830).

A document that is longer than a sequence is split into pieces of one sequence each, and the rest of it is packed as a
document of its own. Pieces are placed from the longest to the shortest, each into the sequence with the least space that
still holds it (best-fit decreasing). No document that fits is cut, and documents never see each other. What remains empty
is padding, which is no target; it is little unless most documents are a little longer than half a sequence.

The sequences of an epoch are the same for every seed but for their order and for which documents of equal length share
one. Each is a pure function of (seed, index, length).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from functools import lru_cache

import numpy as np

from elongate.data.sequences import Batch, Usage
from elongate.data.tokens import Tokens


class PackedSequences:
    """An endless list of sequences over one split, `len` of them per epoch, each with whole documents."""

    def __init__(self, tokens: Tokens, length: int, seed: int) -> None:
        self.tokens, self.length, self.seed = tokens, length, seed
        self._flat = np.asarray(tokens.flat)
        pieces = split_documents(tokens.bounds, length)
        # From the longest to the shortest.
        self._pieces = pieces[np.argsort(-(pieces[:, 1] - pieces[:, 0]), kind="stable")]
        self._sizes = self._pieces[:, 1] - self._pieces[:, 0]
        row_of_piece = best_fit(self._sizes, length + 1)
        self._order = np.argsort(row_of_piece, kind="stable")  # places of the pieces, by sequence
        self._row_starts = np.searchsorted(row_of_piece[self._order], np.arange(row_of_piece.max() + 2))
        # Two epochs, because a batch may extend into the next.
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def __len__(self) -> int:
        return len(self._row_starts) - 1

    def batch(self, first: int, count: int) -> Batch:
        """Sequences first … first + count - 1. The next epoch has its own order."""
        size = self.length + 1
        tokens = np.full((count, size), self.tokens.flat[-1], dtype=np.int64)  # padding: ends of documents
        positions, starts = np.zeros((count, size), dtype=np.int64), np.zeros((count, size), dtype=bool)
        scored = np.zeros((count, size), dtype=bool)
        for row, index in enumerate(range(first, first + count)):
            place = 0
            for start, stop in self._pieces_of(index):
                end = place + stop - start
                tokens[row, place:end] = self._flat[start:stop]
                scored[row, place:end] = True if self.tokens.scored is None else self.tokens.scored[start:stop]
                positions[row, place:end] = np.arange(stop - start)
                starts[row, place] = True
                place = end
            if place < size:
                # The padding is one document more, which nobody sees.
                positions[row, place:] = np.arange(size - place)
                starts[row, place] = True
        return Batch(tokens, positions[:, :-1], starts, scored)

    def usage(self, count: int) -> dict[str, Usage]:
        """What the first `count` sequences read."""
        filled = int(self._sizes.sum()) / (len(self) * (self.length + 1))
        cuts, streamed = len(self._pieces) - len(self.tokens.bounds) + 1, count_stream_cuts(self.tokens.bounds, self.length)
        return {"": Usage(count, count * self.length, count / len(self), cuts, streamed, 1 - filled)}

    def _pieces_of(self, index: int) -> np.ndarray:
        epoch, place = divmod(index, len(self))
        rows, chosen = self._epoch(epoch)
        row = rows[place]
        return self._pieces[chosen[self._order[self._row_starts[row] : self._row_starts[row + 1]]]]

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the sequences, and the piece at each place: pieces of equal size trade places."""
        key = hashlib.sha256(f"{self.seed} {epoch} {self.length} packed".encode()).digest()[:16]
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        rows, shuffled = random.permutation(len(self)), random.permutation(len(self._sizes))
        return rows, shuffled[np.argsort(-self._sizes[shuffled], kind="stable")]


def split_documents(bounds: np.ndarray, length: int) -> np.ndarray:
    """The pieces of all documents, each of at most `length` + 1 tokens: where it starts and stops.

    The last token of a piece is the first of the next, so that each token but the first of a document is a target once.
    """
    sizes = np.diff(bounds)
    counts = np.maximum(1, -(-(sizes - 1) // length))
    document = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = bounds[document] + number * length
    return np.stack([starts, np.minimum(starts + length + 1, bounds[document + 1])], axis=1)


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each piece; `sizes` descend, and none is above the capacity."""
    rows = np.empty(len(sizes), dtype=np.int64)
    spaces: list[int] = []  # different spaces that a row has left, ascending
    with_space: dict[int, list[int]] = {}
    count = 0
    for place, size in enumerate(sizes.tolist()):
        found = bisect_left(spaces, size)
        if found == len(spaces):
            row, space = count, capacity
            count += 1
        else:
            space = spaces[found]
            row = with_space[space].pop()
            if not with_space[space]:
                del with_space[space], spaces[found]
        rows[place] = row
        if left := space - size:
            if left not in with_space:
                insort(spaces, left)
            with_space.setdefault(left, []).append(row)
    return rows


def count_stream_cuts(bounds: np.ndarray, length: int) -> int:
    """How often `packing=stream` cuts a document in an epoch whose offset is 0."""
    # A sequence reads the first token of the next one as its last target, so a document may end there uncut.
    borders = np.arange(length, bounds[-1] - 1, length)
    document = np.searchsorted(bounds, borders, side="right") - 1
    return int(((borders > bounds[document]) & (borders < bounds[document + 1] - 1)).sum())
