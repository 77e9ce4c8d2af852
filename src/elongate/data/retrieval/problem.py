"""A retrieval problem: what is hidden in a text, what hides it, the question, the right answer and a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from elongate.data.retrieval.answers import Candidate, Encode, continuation, equally_long

Split = Literal["train", "evaluation"]
NUM_DIGITS = 5  # of a number
NUM_NUMBERS = 45_000  # of each split

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Problem:
    """A question about a text. Without the needles, which the text hides, the answer cannot be inferred."""

    needles: tuple[str, ...]  # the first one is put at the depth of the sample, the others anywhere
    query: str
    answer: str
    wrong: str  # an answer of the same form that the text does not support
    items: tuple[str, ...] = ()  # what the needles are hidden among; empty: ordinary text
    num_required: int = 0  # items, the first ones, without which the question is too easy


def draw_number(random: np.random.Generator, split: Split) -> str:
    """Five digits, the first not zero. Their sum is odd in evaluation and even in training."""
    first, *others = random.integers([1, *[0] * (NUM_DIGITS - 2)], 10).tolist()
    parity = int(split == "evaluation")
    last = int(random.integers(5)) * 2 + (first + sum(others) + parity) % 2
    return "".join(map(str, (first, *others, last)))


@dataclass(frozen=True)
class Draw:
    """Random numbers, words and answers of one split. The two splits share no number and no word."""

    random: np.random.Generator
    split: Split
    length: int  # tokens of the text, including needles, question and answer
    encode: Encode

    def count(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self.encode(text))

    def number(self) -> str:
        """A number of the split, see `draw_number`."""
        return draw_number(self.random, self.split)

    def stream(self) -> Iterator[str]:
        """All numbers of the split in random order, each once."""
        found: set[str] = set()
        while len(found) < NUM_NUMBERS:
            if (number := self.number()) not in found:
                found.add(number)
                yield number

    def numbers(self, count: int) -> list[str]:
        """Up to `NUM_NUMBERS` distinct numbers."""
        return list(islice(self.stream(), count))

    def answers(
        self, query: str, candidates: Iterable[Candidate], text: Callable[[Candidate], str] = " {}".format
    ) -> tuple[Candidate, Candidate]:
        """A right and a wrong answer: the first two candidates with the same number of tokens after the query.

        Raises `Indistinguishable`.
        """
        return equally_long(candidates, lambda candidate: continuation(self.encode, query, text(candidate)))

    def words(self, count: int) -> list[str]:
        """Distinct words of three syllables, at most 1,000. The two splits use different first syllables."""
        syllables = [c + v for c in _CONSONANTS for v in _VOWELS]
        starts = syllables[int(self.split == "evaluation") :: 2]
        every = len(starts) * len(syllables) ** 2
        found = self.random.choice(every, size=count, replace=False)
        parts = [(n % len(starts), n // len(starts) % 70, n // len(starts) // 70) for n in found.tolist()]
        return [starts[first] + syllables[second] + syllables[third] for first, second, third in parts]

    def fitting(self, needles: tuple[str, ...], query: str, answer: str, item: str) -> int:
        """Number of items of this size that fit into the text besides needles, query and answer."""
        fixed = sum(map(self.count, needles)) + self.count(query) + len(continuation(self.encode, query, answer))
        return max(0, (self.length - fixed) // self.count(item))
