"""A problem on a text of a length: the tokens that a model reads, the answers that are compared, and where the needle came to lie."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import numpy as np
from jaxtyping import Int

from elongate.data.retrieval.problem import Draw, Problem, Split
from elongate.data.retrieval.tasks import TASKS

Encode = Callable[[str], np.ndarray]
Control = Literal["none", "without_needle", "without_haystack"]
Tokens = Int[np.ndarray, " tokens"]
_TRIES = 100  # at a wrong answer of as many tokens as the right one; a tokenizer of bytes needs one


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

    Without its haystack a sample is as long as the rest; without its needles it is as long as with them. Raises `DoesNotFit`.
    """
    random = place.random()
    draw = Draw(random, place.split, place.length, lambda text: len(encode(text)))
    for _ in range(_TRIES):
        problem = TASKS[place.task](draw)
        answers = [encode(text).astype(np.int64) for text in (problem.answer, problem.wrong)]
        if len(answers[0]) == len(answers[1]):
            return _laid_out(problem, place, np.stack(answers), random, encode, haystack, control)
    raise AssertionError(f"no two answers of {place.task} have equally many tokens")


def _laid_out(
    problem: Problem, place: Place, answers: np.ndarray, random: np.random.Generator, encode: Encode, haystack: Tokens, control: Control
) -> Sample:
    needles, query = [encode(text) for text in problem.needles], encode(problem.query)
    fixed = sum(map(len, needles)) + len(query) + answers.shape[1]
    length = fixed if control == "without_haystack" else place.length
    if fixed > length:
        raise DoesNotFit(fixed)
    hay = _hay([encode(text) for text in problem.items], haystack, length - fixed, random)
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
