"""A problem on a text of a length: the tokens that a model reads, the answers that are compared, and where the needle came to lie."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import numpy as np
from jaxtyping import Int

from elongate.data.retrieval.answers import Encode, continuation
from elongate.data.retrieval.problem import Draw, Problem, Split
from elongate.data.retrieval.tasks import TASKS

Control = Literal["none", "without_needle", "without_haystack"]
Tokens = Int[np.ndarray, " tokens"]
_TRIES = 100  # problems that are drawn until one fits; with the byte tokenizer the first one does
_LOOKED_AT = 8  # problems by which the shortest length of a task is known


class DoesNotFit(Exception):
    """`shortest`: tokens that needles, question and answer take."""

    def __init__(self, shortest: int) -> None:
        super().__init__(shortest)
        self.shortest = shortest


@dataclass(frozen=True)
class Place:
    """Which sample: everything that its tokens depend on but the tokenizer and the haystack."""

    task: str
    length: int  # tokens, the answer included
    depth: float  # asked for: 0 the beginning, 1 the end
    number: int
    seed: int
    split: Split = "evaluation"

    def random(self) -> np.random.Generator:
        text = f"{self.task} {self.length} {self.depth:.6f} {self.number} {self.seed} {self.split}"
        return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))


@dataclass(frozen=True)
class Sample:
    prefix: Tokens  # all that is read before the answer
    answers: Int[np.ndarray, "2 answer"]  # the right one, the wrong one
    depth: float  # of the first token of the needle that is asked for, as a share of the prefix
    problem: Problem


def made(place: Place, encode: Encode, haystack: Tokens, control: Control = "none") -> Sample:
    """`haystack`: ordinary text, a stretch of which is taken where the task has no items of its own.

    Without its haystack a sample is as long as the rest; without its needles it is as long as with them. Raises `DoesNotFit`, and
    `Indistinguishable` for a tokenizer that reads all answers of the task alike.
    """
    random = place.random()
    drawn = [_drawn(place, encode, random)]
    while drawn[-1].size > place.length:
        # Numbers and words differ in their numbers of tokens.
        if len(drawn) == _TRIES:
            raise DoesNotFit(min(one.size for one in drawn))
        drawn.append(_drawn(place, encode, random))
    return _laid_out(drawn[-1], place, random, encode, haystack, control)


def shortest_length(task: str, encode: Encode, seed: int) -> int:
    """The shortest length, in tokens, at which samples of the task fit. Raises `Indistinguishable`."""
    places = [Place(task, 1, 0.0, number, seed) for number in range(_LOOKED_AT)]
    return max(_drawn(place, encode, place.random()).size for place in places)


@dataclass(frozen=True)
class _Drawn:
    """A problem, and what every sample of it contains."""

    problem: Problem
    needles: list[np.ndarray]
    query: np.ndarray
    answers: Int[np.ndarray, "2 answer"]

    @property
    def size(self) -> int:
        """Tokens without a haystack."""
        return sum(map(len, self.needles)) + len(self.query) + self.answers.shape[1]


def _drawn(place: Place, encode: Encode, random: np.random.Generator) -> _Drawn:
    problem = TASKS[place.task](Draw(random, place.split, place.length, encode))
    answers = np.stack([continuation(encode, problem.query, text) for text in (problem.answer, problem.wrong)])
    return _Drawn(problem, [encode(text) for text in problem.needles], encode(problem.query), answers)


def _laid_out(drawn: _Drawn, place: Place, random: np.random.Generator, encode: Encode, haystack: Tokens, control: Control) -> Sample:
    problem, needles, query, answers = drawn.problem, drawn.needles, drawn.query, drawn.answers
    length = drawn.size if control == "without_haystack" else place.length
    hay = _hay([encode(text) for text in problem.items], haystack, length - drawn.size, random)
    # Before which piece of hay each needle lies: the first where it was asked to, the others anywhere.
    gaps = [round(place.depth * len(hay)), *random.integers(len(hay) + 1, size=len(needles) - 1).tolist()]
    if control == "without_needle":
        # As much ordinary text as the needles took, in their place.
        start = int(random.integers(len(haystack) - sum(map(len, needles)) + 1))
        needles = [haystack[start : start + sum(map(len, needles))], *[query[:0]] * (len(needles) - 1)]
    at: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for needle, gap in zip(needles, gaps, strict=True):
        at[gap].append(needle)
    pieces = [piece for i in range(len(hay) + 1) for piece in (*at[i], *hay[i : i + 1])]
    prefix = np.concatenate([*pieces, query]).astype(np.int64)
    before = takewhile(lambda piece: piece is not needles[0], pieces)
    return Sample(prefix, answers, sum(map(len, before)) / len(prefix), problem)


def _hay(items: list[np.ndarray], haystack: Tokens, room: int, random: np.random.Generator) -> list[np.ndarray]:
    """Exactly `room` tokens in pieces that needles may lie between: items that fit, ordinary text before them."""
    kept: list[np.ndarray] = []
    for item in items:
        if len(item) <= room:
            kept.append(item)
            room -= len(item)
    start = int(random.integers(len(haystack) - room + 1))
    ordinary = haystack[start : start + room]
    if not kept:
        return list(ordinary[:, None])
    return [ordinary, *kept] if room else kept
