"""The default text with recurring facts and lists, from which a small model learns to use its context.

A small model learns to look back only if many of its tokens can be predicted in no other way (induction heads:
Olsson et al. 2022, arXiv:2209.11895). One question at the end of a document, as in `data=retrieval`, is too little. Here
about half of the characters belong to facts and lists, which can be predicted from their first occurrence. Facts alone
work too, but are learned later. The held-out documents are those of `data=stdlib`, unchanged: losses of both sources can
be compared, and haystacks contain no facts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from elongate.data.files import digest
from elongate.data.retrieval.problem import draw_number
from elongate.data.source import Document, held_out_documents
from elongate.data.stdlib import Stdlib
from elongate.errors import require

PASS_KEY = "pass key"
FACT = "\nThe {name} is {number}.\n"
_FORMAT = 1  # raise it whenever the same settings give other texts
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
_WORD = (4, 8)  # letters
_STRETCH = (16, 1024)  # characters of a piece of ordinary text
_LIST = (16, 256)  # characters
_EPISODE = (400, 6000)  # characters before new facts and words replace the old ones
_PASS_KEY_RATIO = 0.3  # of the facts; the others share the rest


@dataclass(kw_only=True)
class Recall(Stdlib):
    """The standard library, its training documents interleaved with facts (`The <name> is <number>.`) and lists."""

    num_facts: int = 16  # most facts at a time, at least 1; small numbers are as frequent as large ones (log-uniform)
    text_ratio: float = 0.15  # share of ordinary text among the pieces, which are longer than facts
    list_ratio: float = 0.2  # share of lists; facts are the rest, so both shares together are below 1
    seed: int = 0  # of names, numbers and the order of the pieces, not of the order of the sequences

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_facts >= 1, "num_facts", self.num_facts, "must be at least 1", "use {key}=16")
        for name in ("text_ratio", "list_ratio"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1", "use {key}=0.2")
        rule = f"and text_ratio={self.text_ratio} must be below 1 together: the rest is facts"
        require(self.text_ratio + self.list_ratio < 1, "list_ratio", self.list_ratio, rule, "use {key}=0.2")

    def documents(self) -> Iterator[Document]:
        plain = list(super().documents())
        held_out = held_out_documents([document.name for document in plain], self.validation_ratio)
        for number, (document, is_held_out) in enumerate(zip(plain, held_out, strict=True)):
            if is_held_out:
                yield document
            else:
                random = np.random.default_rng((self.seed, number))
                yield Document(document.name, "".join(self._interleaved(document.text, random)))

    def fingerprint(self) -> str:
        settings = [self.num_facts, self.text_ratio, self.list_ratio, self.seed, self.validation_ratio]
        return digest([], "recall", _FORMAT, settings, super().fingerprint())

    def _interleaved(self, text: str, random: np.random.Generator) -> Iterator[str]:
        """Pieces of a document of about the same length: the beginning of the text in order, with facts in between."""
        start = length = 0
        while length < len(text):
            facts = self._facts(random)
            words = [draw_number(random, "train"), draw_number(random, "train"), _word(random), _word(random)]
            end = min(length + _log_uniform(random, *_EPISODE), len(text))
            while length < end:
                kind = random.random()
                if kind < self.text_ratio:
                    piece = text[start : start + _log_uniform(random, *_STRETCH)]
                    start += len(piece)
                elif kind < self.text_ratio + self.list_ratio:
                    piece = _list(words, random)
                elif random.random() < _PASS_KEY_RATIO:
                    piece = facts[0]
                else:
                    piece = facts[random.integers(len(facts))]
                length += len(piece)
                yield piece

    def _facts(self, random: np.random.Generator) -> list[str]:
        """The first fact is about the pass key that `evaluation=needle` asks for. No evaluation uses their numbers."""
        others = [_word(random) for _ in range(_log_uniform(random, 1, self.num_facts) - 1)]
        return [FACT.format(name=name, number=draw_number(random, "train")) for name in (PASS_KEY, *others)]


def _list(words: list[str], random: np.random.Generator) -> str:
    """A line in which the words are repeated at random; the last one may be cut off."""
    size = _log_uniform(random, *_LIST)
    chosen = random.integers(len(words), size=size // min(map(len, words)) + 1)
    return ("\n" + " ".join(words[i] for i in chosen))[:size]


def _word(random: np.random.Generator) -> str:
    return "".join(random.choice(_LETTERS, size=random.integers(*_WORD, endpoint=True)).tolist())


def _log_uniform(random: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, whose logarithm is uniform."""
    return int(math.exp(random.uniform(math.log(low), math.log(high + 1))))
