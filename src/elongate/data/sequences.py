"""Sequences: pieces of the token stream, each a pure function of (seed, index, length); and the held-out pieces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from elongate.context.sampling.sampling import Sampling
from elongate.data.tokens import Tokens
from elongate.errors import require


@dataclass(frozen=True)
class Batch:
    """Sequences of one optimizer step, or a part of them."""

    tokens: np.ndarray  # int64 [count, length + 1]: inputs are [:, :-1], targets [:, 1:]
    # int64 [count, length], from 0 again at the first token of each isolated document, or sampled; None: 0, 1, 2 …
    positions: np.ndarray | None
    # bool [count, length + 1], True at a token that does not follow the one before it; None where positions is None.
    starts: np.ndarray | None
    scored: np.ndarray | None = None  # bool [count, length + 1], False at a token that is no target; None: all are

    @property
    def reach(self) -> int:
        """One more than the largest position."""
        return self.tokens.shape[1] - 1 if self.positions is None else int(self.positions.max()) + 1


@dataclass(frozen=True)
class Usage:
    """What a training reads of a source."""

    sequences: int
    tokens: int  # padding included
    epochs: float  # times that the source is read: above 1, its text repeats
    cuts: int | None = None  # of documents in an epoch of packed sequences; None: not packed
    stream_cuts: int | None = None  # what packing=stream would cut
    padding_ratio: float | None = None  # of the tokens of an epoch

    def followed_by(self, other: Usage) -> Usage:
        """Both together; cuts and padding are those of the second, whose sequences are usually longer."""
        return replace(
            other, sequences=self.sequences + other.sequences, tokens=self.tokens + other.tokens, epochs=self.epochs + other.epochs
        )


class SequenceList(Protocol):
    """Sequences that the training loop reads in order."""

    def batch(self, first: int, count: int) -> Batch:
        """Sequences first … first + count - 1, each a pure function of its index."""

    def usage(self, count: int) -> dict[str, Usage]:
        """What the first `count` sequences read of each source of a mixture; of the only source under the name ""."""


class Sequences:
    """An endless list of sequences over one split, `len` of them per epoch.

    In an epoch the stream is cut every `length` tokens, starting at a random offset below `length`, and the sequences
    come in random order. The last target of a sequence is the first input of its neighbour, so each token is a target
    once. The offset loses up to one sequence at the ends.
    """

    def __init__(self, tokens: Tokens, length: int, seed: int, isolate_documents: bool) -> None:
        rule = f"the train split has {len(tokens)} tokens, one sequence needs {length + 1}"
        remedy = f"use {{key}}={len(tokens) - 1} or less, or more data" if len(tokens) > 1 else "give it more data"
        require(len(tokens) > length, "length", length, rule, remedy)
        self.tokens, self.length, self.seed, self.isolate_documents = tokens, length, seed, isolate_documents
        self._flat = np.asarray(tokens.flat)
        self._num_offsets = min(length, len(tokens) - len(self) * length)
        # Two epochs, because a batch may extend into the next.
        self._epoch_starts = lru_cache(maxsize=2)(self._compute_starts)

    def __len__(self) -> int:
        return max(1, len(self.tokens) // self.length - 1)

    def batch(self, first: int, count: int) -> Batch:
        """Sequences first … first + count - 1. The next epoch has its own offset and order."""
        starts = [self._start(index) for index in range(first, first + count)]
        tokens = np.empty((count, self.length + 1), dtype=np.int64)
        for row, start in zip(tokens, starts, strict=True):
            row[:] = self._flat[start : start + self.length + 1]
        scored = None
        if (marks := self.tokens.scored) is not None:
            scored = np.stack([marks[start : start + self.length + 1] for start in starts]).astype(bool)
        if not self.isolate_documents:
            return Batch(tokens, None, None, scored)
        document_starts = self._document_starts(starts)
        places = np.arange(self.length + 1)
        last_start = np.maximum.accumulate(np.where(document_starts, places, 0), axis=1)
        return Batch(tokens, (places - last_start)[:, :-1], document_starts, scored)

    def usage(self, count: int) -> dict[str, Usage]:
        """What the first `count` sequences read."""
        return {"": Usage(count, count * self.length, count / len(self))}

    def _start(self, index: int) -> int:
        epoch, place = divmod(index, len(self))
        return int(self._epoch_starts(epoch)[place])

    def _compute_starts(self, epoch: int) -> np.ndarray:
        """The starts of the sequences of an epoch, in the order in which they are read."""
        key = hashlib.sha256(f"{self.seed} {epoch} {self.length}".encode()).digest()[:16]
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        offset = random.integers(self._num_offsets)
        return offset + random.permutation(len(self)) * self.length

    def _document_starts(self, starts: list[int]) -> np.ndarray:
        bounds = self.tokens.bounds
        found = np.zeros((len(starts), self.length + 1), dtype=bool)
        for row, start in zip(found, starts, strict=True):
            low, high = np.searchsorted(bounds, [start, start + self.length + 1])
            row[bounds[low:high] - start] = True
        return found


class SampledSequences:
    """Sequences with sampled positions, each from a longer text. Also pure functions of (seed, index, length)."""

    def __init__(self, tokens: Tokens, sampling: Sampling, length: int, reach: int, seed: int) -> None:
        text_length = max(length, min(sampling.text_length(length), len(tokens) - 1))
        self._texts = Sequences(tokens, text_length, seed, isolate_documents=False)
        self._sampling, self._length, self._reach, self._seed = sampling, length, reach, seed

    def batch(self, first: int, count: int) -> Batch:
        """Sequences first … first + count - 1, with their positions."""
        read = self._texts.batch(first, count)
        texts = read.tokens
        lengths = (self._texts.length, self._length, self._reach)
        drawn = [self._sampling.draw(self._random(index), *lengths) for index in range(first, first + count)]
        tokens = np.stack([text[one.tokens] for text, one in zip(texts, drawn, strict=True)])
        positions, seams = np.stack([one.positions for one in drawn]), np.stack([one.seams for one in drawn])
        if read.scored is None:
            return Batch(tokens, positions, seams)
        return Batch(tokens, positions, seams, np.stack([row[one.tokens] for row, one in zip(read.scored, drawn, strict=True)]))

    def usage(self, count: int) -> dict[str, Usage]:
        """What the first `count` sequences read."""
        return self._texts.usage(count)

    def _random(self, index: int) -> np.random.Generator:
        # From the index, not the text: when a short text repeats, it gets other positions.
        key = hashlib.sha256(f"{self._seed} {self._sampling.word} {index}".encode()).digest()[:16]
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def begun(tokens: np.ndarray, beginning: tuple[int, ...]) -> np.ndarray:
    """The tokens (a text, or a text per row) with the first ones replaced by BOS, so their number stays the same."""
    count = min(len(beginning), tokens.shape[-1])
    begun = np.array(tokens, dtype=np.int64)
    begun[..., :count] = beginning[:count]
    return begun


@dataclass(frozen=True)
class HeldOut:
    """Pieces of validation documents."""

    tokens: np.ndarray  # int64 [n, length]
    documents: np.ndarray  # int64 [n], the document of each row, ascending

    def __len__(self) -> int:
        return len(self.documents)


def held_out(tokens: Tokens, length: int, count: int) -> HeldOut:
    """Up to `count` pieces of exactly `length` tokens, each within one document.

    These are the beginnings of documents, evenly spaced over those that are long enough. If they are fewer than
    `count`, second and third pieces of the same documents follow, whose first token is replaced by BOS if documents
    begin with it. Empty if no document is long enough.
    """
    lengths = np.diff(tokens.bounds)
    chosen: list[tuple[int, int]] = []
    for turn in range(int(lengths.max(initial=0)) // length):
        documents = np.flatnonzero(lengths >= (turn + 1) * length)
        wanted = min(count - len(chosen), len(documents))
        evenly = np.arange(wanted) * len(documents) // max(1, wanted)
        chosen += [(int(document), turn) for document in documents[evenly]]
        if len(chosen) == count:
            break
    chosen.sort()
    rows = np.empty((len(chosen), length), dtype=np.int64)
    for row, (document, turn) in zip(rows, chosen, strict=True):
        start = tokens.bounds[document] + turn * length
        row[:] = begun(tokens.flat[start : start + length], tokens.beginning)
    return HeldOut(rows, np.array([document for document, _ in chosen], dtype=np.int64))
