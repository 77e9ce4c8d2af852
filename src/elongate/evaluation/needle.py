"""A pass key somewhere in a long text (Mohtashami & Jaggi 2023, arXiv:2305.16300), by depth and length.

Scored by teacher forcing, so that a small model gets a graded figure too: the log-probability of the key, and its margin over a wrong
key of as many tokens. A model likes some keys better than others without having read any: so every haystack is read twice, the second
time with the two keys exchanged, and a sample is the mean of both, in which that liking cancels. Exact match beside it: the key is
exactly what greedy decoding writes. One prefill serves both keys.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int

from elongate.data.retrieval.answers import Encode, Indistinguishable, continuation
from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting, check_depths, mean, standard_error, usual_lengths
from elongate.evaluation.samples import Record, digest_of

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

NEEDLE, QUERY = "\nThe pass key is{key}.\n", "\nThe pass key is"
_TRIES, _LOOKED_AT, _SPREAD = 1000, 20, 7919  # numbers that are tried, those by which the commonest shape is known, and their distance
BATCH_TOKENS = 8192  # prefilled at once
FIGURES = ("log_probability", "margin", "exact_match")


@dataclass(frozen=True)
class Sample:
    prefix: Int[np.ndarray, " prefix"]  # haystack with the needle in it, then the query
    answers: Int[np.ndarray, "2 answer"]  # the right one, a wrong one
    key: str  # the right one in words
    depth: float  # of the needle's first token, as a share of the prefix


@dataclass(frozen=True, kw_only=True)
class Needle(Evaluation):
    lengths: list[int] | None = (
        None  # tokens, the answer included; null: the original length and its doublings to twice the target, see `_lengths`
    )
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])  # 0 the beginning, 1 the end
    num_samples: int = 8  # haystacks of each cell, at least 1

    word: ClassVar[str] = "needle"

    def __post_init__(self) -> None:
        require(self.num_samples > 0, "num_samples", self.num_samples, "must be at least 1", "use {key}=8")
        check_depths(self.depths)
        rule = "must be one or more lengths of at least 1, unlike each other"
        sound = self.lengths is None or (bool(self.lengths) and min(self.lengths) > 0 and len(set(self.lengths)) == len(self.lengths))
        require(sound, "lengths", self.lengths, rule, "use {key}=null")

    def header(self, setting: Setting) -> dict[str, Any]:
        lengths = {"original_length": setting.original_length, "target_length": setting.target_length}
        return lengths | {"lengths": self._lengths(setting), "depths": self.depths, "n": self.num_samples}

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        row: dict[str, Any] = {name: [] for figure in FIGURES for name in (figure, f"{figure}_standard_error")}
        model.network.eval()
        keys = _keys(setting)
        for length in self._lengths(setting):
            for cells in row.values():
                cells.append([])
            for depth in self.depths:
                tick(f"needle {length} tokens, depth {depth:g}")
                records = self._records(model, setting, keys, length, depth)
                scores = np.array([[record[figure] for figure in FIGURES] for record in records], dtype=float)
                for figure, value, error in zip(FIGURES, mean(scores), standard_error(scores), strict=True):
                    row[figure][-1].append(value)
                    row[f"{figure}_standard_error"][-1].append(error)
        return row

    def _records(self, model: LanguageModel, setting: Setting, keys: Keys, length: int, depth: float) -> list[Record]:
        """A haystack each, the mean of both readings; those that were measured before are taken as they are."""
        names = [f"{length}/{depth:g}/{number}" for number in range(self.num_samples)]
        left = [number for number, name in enumerate(names) if setting.samples.get(name) is None]
        if left:
            samples = [s for number in left for s in _sample_pair(setting, keys, length, depth, number)]
            rows, began = max(1, BATCH_TOKENS // length), perf_counter()
            scores = np.concatenate([_score(model, setting.reading, samples[i : i + rows]) for i in range(0, len(samples), rows)])
            known = {"depth_asked": depth, "seed": setting.seed, "seconds": (perf_counter() - began) / len(left)}
            pairs = zip(left, samples[::2], scores.reshape(len(left), 2, -1).mean(axis=1).tolist(), strict=True)
            setting.samples.add({names[number]: known | _record(sample, figures) for number, sample, figures in pairs})
        return [setting.samples.get(name) or {} for name in names]

    def _lengths(self, setting: Setting) -> list[int]:
        """Those that hold needle and query and that the held-out text can fill; to the target only for a model that sees both sides."""
        asked = usual_lengths(setting) if self.lengths is None else self.lengths
        shortest = 1 + _keys(setting).size
        fitting = [n for n in asked if shortest <= n <= len(setting.held_out)]
        if (self.lengths is not None and fitting != asked) or not fitting:
            rule = f"must be between {shortest} (needle, query and answer) and {len(setting.held_out)} (the held-out text) tokens"
            raise ConfigError("evaluation.needle.lengths", asked, rule, "change {key}, or leave needle out: evaluation=[curve]")
        return fitting


class _Shape(NamedTuple):
    answer: int  # tokens
    needle: int  # tokens


class Keys:
    """Pairs of five-digit keys that differ in every digit and are equally many tokens, for one tokenizer.

    Ten keys differ from each other in every digit: a number and the nine that follow when all its digits are raised together. Numbers are
    tried in turn until two of its ten keys have the shape that most pairs have; every pair of keys then takes the same room in a text.
    """

    def __init__(self, encode: Encode) -> None:
        """Raises `Indistinguishable` for a tokenizer that reads all numbers alike."""
        self._encode = encode
        found = filter(None, (self._shapes(number * _SPREAD) for number in range(_TRIES)))
        counts = Counter(shape for shapes in islice(found, _LOOKED_AT) for shape in shapes)
        if not counts:
            raise Indistinguishable
        self._shape = counts.most_common(1)[0][0]
        self.size = self._shape.needle + self._shape.answer + len(encode(QUERY))  # tokens of needle, query and answer

    def pair(self, draw: int) -> tuple[str, str]:
        """The first keys of that shape, from the number with the last five digits of `draw` on."""
        for number in range(draw, draw + 10**5):
            if pair := self._shapes(number).get(self._shape):
                return pair
        raise AssertionError("one of the numbers that were looked at has such a pair")

    def _shapes(self, draw: int) -> dict[_Shape, tuple[str, str]]:
        """The shapes that at least two of the ten keys have, each with the first two of these."""
        digits = [(draw // 10**i) % 10 for i in range(5)]
        keys = (" " + "".join(str((d + shift) % 10) for d in digits) for shift in range(10))
        first: dict[_Shape, tuple[str, np.ndarray]] = {}
        pairs: dict[_Shape, tuple[str, str]] = {}
        for key in keys:
            answer = continuation(self._encode, QUERY, key)
            shape = _Shape(len(answer), len(self._encode(NEEDLE.format(key=key))))
            earlier, known = first.setdefault(shape, (key, answer))
            if (known != answer).any():
                pairs.setdefault(shape, (earlier, key))
        return pairs


def _keys(setting: Setting) -> Keys:
    """Raises `ConfigError`."""
    try:
        return Keys(setting.tokenizer.encode)
    except Indistinguishable:
        rule = "the tokenizer reads all numbers as the same tokens"
        raise ConfigError("evaluation", "[needle]", rule, "leave needle out: evaluation=[curve], or use another tokenizer") from None


def _sample_pair(setting: Setting, keys: Keys, length: int, depth: float, number: int) -> list[Sample]:
    """One haystack with the one key and with the other: the same for the same seed, length, depth and number, whatever the model."""
    digest = hashlib.sha256(f"{setting.seed} {length} {depth} {number}".encode()).digest()
    draw, place = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    pair = keys.pair(draw)
    return [_sample(setting, length, depth, place, *order) for order in (pair, pair[::-1])]


def _sample(setting: Setting, length: int, depth: float, place: int, key: str, wrong: str) -> Sample:
    encode, held_out = setting.tokenizer.encode, setting.held_out
    needle, query = encode(NEEDLE.format(key=key)), encode(QUERY)
    answers = np.stack([continuation(encode, QUERY, text) for text in (key, wrong)])
    room = length - len(needle) - len(query) - answers.shape[1]
    start = place % (len(held_out) - room + 1)
    hay = held_out.flat[start : start + room]
    split = round(depth * room)
    prefix = np.concatenate([hay[:split], needle, hay[split:], query]).astype(np.int64)
    return Sample(prefix, answers, key, split / len(prefix))


def _record(sample: Sample, figures: list[float]) -> Record:
    """Of the first of both readings; None where the text could not be read."""
    told = {"answer": sample.key, "depth": sample.depth, "tokens": len(sample.prefix), "text": digest_of(sample.prefix, *sample.answers)}
    unread = figures[0] != figures[0]
    return told | {name: None if unread else figure for name, figure in zip(FIGURES, figures, strict=True)}


def _score(model: LanguageModel, reading: Scorer, samples: list[Sample]) -> np.ndarray:
    """[sample, (log-probability of the answer, margin over the wrong one, exact match)]; samples of equal lengths in one batch."""
    shapes = [(len(s.prefix), s.answers.shape[1]) for s in samples]
    scores = np.empty((len(samples), len(FIGURES)))
    for shape in sorted(set(shapes)):
        chosen = [i for i, s in enumerate(shapes) if s == shape]
        prefix, answers = (np.stack([getattr(samples[i], name) for i in chosen]) for name in ("prefix", "answers"))
        totals, exact = reading.answers(model, prefix, answers)
        # What could not be read was not missed either.
        found = np.where(np.isnan(totals[:, 0]), np.nan, exact[:, 0])
        scores[chosen] = np.stack([totals[:, 0], totals[:, 0] - totals[:, 1], found], axis=1)
    return scores
