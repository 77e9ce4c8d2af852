"""A problem laid out in tokens: the text that a model reads, the two answers, and the depth of the needle."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

import numpy as np
from jaxtyping import Int

from elongate.data.retrieval.answers import Encode, continuation
from elongate.data.retrieval.problem import Draw, Problem, Split
from elongate.data.retrieval.tasks import TASKS

Control = Literal["none", "without_needle", "without_haystack"]
Tokens = Int[np.ndarray, " tokens"]
_TRIES = 100  # problems drawn until one fits; with the byte tokenizer the first one does
_NUM_MEASURED = 8  # problems drawn to estimate the shortest length of a task


class DoesNotFit(Exception):
    """Raised if a text is too short for its problem. `shortest`: tokens of needles, question and answer."""

    def __init__(self, shortest: int) -> None:
        super().__init__(shortest)
        self.shortest = shortest


@dataclass(frozen=True)
class Place:
    """Identifies a sample: its tokens depend on these fields, the tokenizer and the haystack."""

    task: str
    length: int  # tokens, including the answer
    depth: float  # requested depth of the needle: 0 is the beginning, 1 the end
    number: int  # counts samples of the same task, length and depth
    seed: int
    split: Split = "evaluation"

    def random(self) -> np.random.Generator:
        """A generator that depends on all fields."""
        text = f"{self.task} {self.length} {self.depth:.6f} {self.number} {self.seed} {self.split}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
        return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class Sample:
    """A text with a hidden needle, and the answers to its question."""

    prefix: Tokens  # everything before the answer
    answers: Int[np.ndarray, "2 answer"]  # the right answer, then the wrong one
    depth: float  # where the needle that the question is about starts, as a share of the prefix
    problem: Problem


def build_sample(place: Place, encode: Encode, haystack: Tokens, control: Control = "none", beginning: tuple[int, ...] = ()) -> Sample:
    """Draws a problem and hides its needles in items of the task, or in a passage of `haystack` if the task has none.

    `beginning` are the first tokens of the text, usually BOS or none; `place.length` includes them.
    `without_haystack` keeps needles and question only; `without_needle` replaces the needles by as much ordinary text.
    Raises `DoesNotFit`, and `Indistinguishable` for a tokenizer that encodes all answers of the task alike.
    """
    random = place.random()
    length = place.length - len(beginning)
    drawn = [_draw(place, length, encode, random)]
    while drawn[-1].size > length:
        # Another draw may be shorter: numbers and words differ in their number of tokens.
        if len(drawn) == _TRIES:
            raise DoesNotFit(min(one.size for one in drawn) + len(beginning))
        drawn.append(_draw(place, length, encode, random))
    hidden = _lay_out(drawn[-1], replace(place, length=length), random, haystack, control)
    if not beginning:
        return hidden
    prefix = np.concatenate([beginning, hidden.prefix])
    return replace(hidden, prefix=prefix, depth=(len(beginning) + hidden.depth * len(hidden.prefix)) / len(prefix))


def shortest_length(task: str, encode: Encode, seed: int) -> int:
    """The shortest length, in tokens, at which samples of the task fit. Raises `Indistinguishable`."""
    places = [Place(task, 1, 0.0, number, seed) for number in range(_NUM_MEASURED)]
    return max(_draw(place, place.length, encode, place.random()).size for place in places)


@dataclass(frozen=True)
class _Drawn:
    """A problem and its tokens, before a haystack is added."""

    problem: Problem
    needles: list[np.ndarray]
    query: np.ndarray
    answers: Int[np.ndarray, "2 answer"]
    items: list[np.ndarray]

    @property
    def bare_size(self) -> int:
        """Number of tokens without a haystack."""
        return sum(map(len, self.needles)) + len(self.query) + self.answers.shape[1]

    @property
    def size(self) -> int:
        """Number of tokens with the items that the problem requires."""
        return self.bare_size + sum(map(len, self.items[: self.problem.num_required]))


def _draw(place: Place, length: int, encode: Encode, random: np.random.Generator) -> _Drawn:
    problem = TASKS[place.task](Draw(random, place.split, length, encode))
    answers = np.stack([continuation(encode, problem.query, text) for text in (problem.answer, problem.wrong)])
    needles, items = ([encode(text) for text in texts] for texts in (problem.needles, problem.items))
    return _Drawn(problem, needles, encode(problem.query), answers, items)


def _lay_out(
    drawn: _Drawn,
    place: Place,
    random: np.random.Generator,
    haystack: Tokens,
    control: Control,
) -> Sample:
    """Puts the first needle at the requested depth, the others anywhere, and the question at the end."""
    problem, needles, query, answers = drawn.problem, drawn.needles, drawn.query, drawn.answers
    length = drawn.bare_size if control == "without_haystack" else place.length
    hay, first = _hay(drawn.items, haystack, length - drawn.bare_size, random)
    # The piece of hay that follows each needle.
    gaps = [max(first, round(place.depth * len(hay))), *random.integers(first, len(hay) + 1, size=len(needles) - 1).tolist()]
    if control == "without_needle":
        # Ordinary text of the same size takes the place of the needles.
        start = int(random.integers(len(haystack) - sum(map(len, needles)) + 1))
        needles = [haystack[start : start + sum(map(len, needles))], *[query[:0]] * (len(needles) - 1)]
    needles_before: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for needle, gap in zip(needles, gaps, strict=True):
        needles_before[gap].append(needle)
    pieces = [piece for i in range(len(hay) + 1) for piece in (*needles_before[i], *hay[i : i + 1])]
    prefix = np.concatenate([*pieces, query]).astype(np.int64)
    before = takewhile(lambda piece: piece is not needles[0], pieces)
    return Sample(prefix, answers, sum(map(len, before)) / len(prefix), problem)


def _hay(items: list[np.ndarray], haystack: Tokens, size: int, random: np.random.Generator) -> tuple[list[np.ndarray], int]:
    """Exactly `size` tokens, cut where needles may be inserted: ordinary text, then the items that fit.

    Also the first place for a needle: with items, after the ordinary text, which may begin within a word.
    """
    fitting: list[np.ndarray] = []
    for item in items:
        if len(item) <= size:
            fitting.append(item)
            size -= len(item)
    start = int(random.integers(len(haystack) - size + 1))
    ordinary = haystack[start : start + size]
    if not fitting:
        return list(ordinary[:, None]), 0
    return ([ordinary, *fitting], 1) if size else (fitting, 0)
