"""A question whose answer stands in the text: what is hidden, what hides it, what is asked, and the answer beside a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from elongate.data.retrieval.answers import Candidate, Encode, continuation, equally_long

Split = Literal["train", "evaluation"]
PASSES = 5  # digits of a number
NUM_NUMBERS = 45_000  # of each split

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Problem:
    """The first needle is the one whose depth is asked for; the others lie anywhere. Without needles there is no telling the answer."""

    needles: tuple[str, ...]
    query: str
    answer: str
    wrong: str  # what someone might answer who has not read the needles
    items: tuple[str, ...] = ()  # what the needles are hidden among; none: ordinary text


@dataclass(frozen=True)
class Draw:
    """What a problem is made from: the same for the same seed. Numbers and words of the two splits have nothing in common."""

    random: np.random.Generator
    split: Split
    room: int  # tokens to fill, needles and question included
    encode: Encode

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.encode(text))

    def number(self) -> str:
        """Five digits whose sum is odd in evaluation and even in training, the first of them not zero."""
        first, *others = self.random.integers([1, *[0] * (PASSES - 2)], 10).tolist()
        parity = int(self.split == "evaluation")
        last = int(self.random.integers(5)) * 2 + (first + sum(others) + parity) % 2
        return "".join(map(str, (first, *others, last)))

    def stream(self) -> Iterator[str]:
        """Numbers that differ from each other, until there are no more."""
        found: set[str] = set()
        while len(found) < NUM_NUMBERS:
            if (number := self.number()) not in found:
                found.add(number)
                yield number

    def numbers(self, count: int) -> list[str]:
        """At most `NUM_NUMBERS` that differ from each other."""
        return list(islice(self.stream(), count))

    def answers(
        self, query: str, candidates: Iterable[Candidate], text: Callable[[Candidate], str] = " {}".format
    ) -> tuple[Candidate, Candidate]:
        """A right and a wrong answer to the query: the first candidates whose texts are equally many tokens there.

        Raises `Indistinguishable`.
        """
        return equally_long(candidates, lambda candidate: continuation(self.encode, query, text(candidate)))

    def words(self, count: int) -> list[str]:
        """Of three syllables, unlike each other; the syllables that begin them tell the splits apart. At most 1,000."""
        syllables = [c + v for c in _CONSONANTS for v in _VOWELS]
        starts = syllables[int(self.split == "evaluation") :: 2]
        every = len(starts) * len(syllables) ** 2
        found = self.random.choice(every, size=count, replace=False)
        return [starts[n % len(starts)] + syllables[n // len(starts) % 70] + syllables[n // len(starts) // 70] for n in found.tolist()]

    def fitting(self, needles: tuple[str, ...], query: str, answer: str, item: str) -> int:
        """How many items of this size fit besides needles, query and answer; at least 0."""
        said = sum(map(self.count, needles)) + self.count(query) + len(continuation(self.encode, query, answer))
        return max(0, (self.room - said) // self.count(item))
