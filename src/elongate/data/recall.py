"""The default text with something to look up: pass keys that are stated again later, and lists of a few new words and numbers.

A small model learns to copy from its context only if a large share of the tokens can be predicted in no other way (Olsson et al. 2022,
arXiv:2209.11895: induction heads). One question per document is not enough; here about half of the characters are of this kind. The
held-out documents are those of `data=stdlib`, unchanged, so perplexities of both sources can be compared and haystacks contain no key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from elongate.data.files import digest
from elongate.data.retrieval.problem import Draw
from elongate.data.source import Document, held_out_documents
from elongate.data.stdlib import Stdlib
from elongate.errors import require

STATEMENT = "\nThe pass key is {key}.\n"
_FORMAT = 1  # raised whenever the same settings give other texts
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
_STATEMENTS = (3, 7)  # of one key, the upper end excluded
_STRETCH = (16, 257)  # characters of a stretch of text or of a list, the upper end excluded
_WORD = (4, 9)  # letters of a word, the upper end excluded


@dataclass(kw_only=True)
class Recall(Stdlib):
    """The standard library; its training documents are interleaved with keys and lists."""

    longest_gap: int = 512
    """Characters between two statements of a key, at least 16; shorter gaps are as frequent as longer ones (log-uniform)."""
    text_ratio: float = 0.4
    """Probability that a stretch between two keys is ordinary text and not a list, above 0 and at most 1."""
    seed: int = 0
    """Seed of keys, words and gaps. The seed of the run decides the order of the sequences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shortest = _STRETCH[0]
        require(self.longest_gap >= shortest, "longest_gap", self.longest_gap, f"must be at least {shortest}", "use {key}=512")
        require(0 < self.text_ratio <= 1, "text_ratio", self.text_ratio, "must be above 0 and at most 1", "use {key}=0.4")

    def documents(self) -> Iterator[Document]:
        names = [document.name for document in super().documents()]
        held_out = held_out_documents(names, self.validation_ratio)
        for number, document in enumerate(super().documents()):
            if held_out[number]:
                yield document
            else:
                random = np.random.default_rng((self.seed, number))
                yield Document(document.name, "".join(self._interleaved(document.text, random)))

    def fingerprint(self) -> str:
        settings = [self.longest_gap, self.text_ratio, self.seed, self.validation_ratio]
        return digest([], "recall", _FORMAT, settings, super().fingerprint())

    def _interleaved(self, text: str, random: np.random.Generator) -> Iterator[str]:
        """All of the text in order, in stretches; keys and lists between them."""
        draw = Draw(random, "train", 0, lambda text: np.frombuffer(text.encode(), dtype=np.uint8))
        start = 0
        while start < len(text):
            key = draw.number()
            vocabulary = [key, draw.number(), _word(random), _word(random)]
            for _ in range(random.integers(*_STATEMENTS)):
                yield STATEMENT.format(key=key)
                gap = _log_uniform(random, _STRETCH[0], self.longest_gap)
                while gap > 0:
                    size = min(gap, _log_uniform(random, *_STRETCH))
                    gap -= size
                    if random.random() < self.text_ratio:
                        yield text[start : start + size]
                        start += size
                    else:
                        yield _list(vocabulary, random, size)


def _list(vocabulary: list[str], random: np.random.Generator, size: int) -> str:
    """A line of `size` characters in which the words of the vocabulary are repeated at random."""
    shortest = min(map(len, vocabulary))
    chosen = random.integers(len(vocabulary), size=size // shortest + 1)
    return ("\n" + " ".join(vocabulary[i] for i in chosen))[:size]


def _word(random: np.random.Generator) -> str:
    return "".join(random.choice(_LETTERS, size=random.integers(*_WORD)).tolist())


def _log_uniform(random: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to below `high` (or `low`), whose logarithm is uniform."""
    return int(math.exp(random.uniform(math.log(low), math.log(high))))
