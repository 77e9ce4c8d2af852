"""A pass key somewhere in a long text (Mohtashami & Jaggi 2023, arXiv:2305.16300), by depth and length.

Scored by teacher forcing, so that a small model gets a graded figure too: the log-probability of the key, and
its margin over a wrong key of equally many tokens. A model prefers some keys to others even without having
read any. So every haystack is read twice, the second time with the two keys exchanged, and a sample is the
mean of both readings, in which that preference cancels. Exact match: greedy decoding writes exactly the key.
One prefill serves both keys.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from elongate.data.retrieval.answers import Encode, Indistinguishable, continuation
from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.measurement.lengths import BATCH_TOKENS, check_depths, usual_lengths
from elongate.evaluation.measurement.samples import Record, digest_of
from elongate.evaluation.measurement.statistics import mean, standard_error
from elongate.evaluation.presentation.needle import MEASURES, NeedlePresentation

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

NEEDLE, QUERY = "\nThe pass key is{key}.\n", "\nThe pass key is"
# Numbers that are tried, those that decide which shape is the commonest, and their distance from each other.
_TRIES, _EXAMINED, _SPREAD = 1000, 20, 7919


@dataclass(frozen=True)
class Sample:
    """One reading of a haystack."""

    prefix: Int[np.ndarray, " prefix"]  # the haystack with the needle in it, then the query
    answers: Int[np.ndarray, "2 answer"]  # the right one, a wrong one
    key: str  # the right one in words
    depth: float  # of the needle's first token, as a share of the prefix


@dataclass(frozen=True, kw_only=True)
class Needle(NeedlePresentation, Evaluation):
    """The margin of a pass key by depth and length."""

    # Tokens, the answer included; null: the original length and its doublings to twice the target, see `_lengths`.
    lengths: list[int] | None = None
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])  # 0 the beginning, 1 the end
    num_samples: int = 8  # haystacks of each cell, at least 1

    def __post_init__(self) -> None:
        require(self.num_samples > 0, "num_samples", self.num_samples, "must be at least 1", "use {key}=8")
        check_depths(self.depths)
        rule = "must be one or more different lengths of at least 1"
        valid = self.lengths is None or (bool(self.lengths) and min(self.lengths) > 0 and len(set(self.lengths)) == len(self.lengths))
        require(valid, "lengths", self.lengths, rule, "use {key}=null")

    def header(self, setting: Setting) -> dict[str, Any]:
        return setting.lengths | {"lengths": self._lengths(setting), "depths": self.depths, "n": self.num_samples}

    def num_tokens(self, header: dict[str, Any]) -> int:
        return 2 * int(sum(header["lengths"])) * len(header["depths"]) * int(header["n"])  # each sample in two readings

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        row: dict[str, Any] = {name: [] for figure in MEASURES for name in (figure, f"{figure}_standard_error")}
        model.network.eval()
        keys = _keys(setting)
        for length in self._lengths(setting):
            for cells in row.values():
                cells.append([])
            for depth in self.depths:
                tick(f"needle {length} tokens, depth {depth:g}")
                records = self._records(model, setting, keys, length, depth)
                scores = np.array([[record[figure] for figure in MEASURES] for record in records], dtype=float)
                for figure, value, error in zip(MEASURES, mean(scores), standard_error(scores), strict=True):
                    row[figure][-1].append(value)
                    row[f"{figure}_standard_error"][-1].append(error)
        return row

    def _records(self, model: LanguageModel, setting: Setting, keys: Keys, length: int, depth: float) -> list[Record]:
        """One record for each haystack, the mean of both readings; earlier ones are not measured again."""
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
        """The lengths that needle and query fit into, and that the held-out text can fill."""
        usual = usual_lengths(setting.original_length, setting.target_length, setting.reading.two_sided)
        asked = usual if self.lengths is None else self.lengths
        shortest = 1 + len(setting.tokenizer.beginning) + _keys(setting).size
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

    The sum of a key's digits is odd. Training texts of `data=recall` and `data=retrieval` contain only numbers
    whose sum is even, so no key occurs in training. Five such keys differ from each other in every digit: they
    arise when all digits of a number are raised together. Numbers are tried in turn until two of the five keys
    have the shape that most pairs have, so every pair of keys takes the same room in a text.
    """

    def __init__(self, encode: Encode) -> None:
        """Raises `Indistinguishable` for a tokenizer that reads all numbers alike."""
        self._encode = encode
        found = filter(None, (self._shapes(number * _SPREAD) for number in range(_TRIES)))
        counts = Counter(shape for shapes in islice(found, _EXAMINED) for shape in shapes)
        if not counts:
            raise Indistinguishable
        self._shape = counts.most_common(1)[0][0]
        self.size = self._shape.needle + self._shape.answer + len(encode(QUERY))  # tokens of needle, query and answer

    def pair(self, draw: int) -> tuple[str, str]:
        """The first two keys of that shape, starting at the number with the last five digits of `draw`."""
        for number in range(draw, draw + 10**5):
            if pair := self._shapes(number).get(self._shape):
                return pair
        raise AssertionError("one of the examined numbers has such a pair")

    def _shapes(self, draw: int) -> dict[_Shape, tuple[str, str]]:
        """The shapes that at least two of the five keys have, each with the first two of these."""
        digits = [(draw // 10**i) % 10 for i in range(5)]
        raised = ([(d + shift) % 10 for d in digits] for shift in range(10))
        keys = (" " + "".join(map(str, key)) for key in raised if sum(key) % 2 == 1)
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
    """The same haystack with either key: a function of seed, length, depth and number, for every model."""
    digest = hashlib.sha256(f"{setting.seed} {length} {depth} {number}".encode()).digest()
    draw, place = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    pair = keys.pair(draw)
    return [_sample(setting, length, depth, place, *order) for order in (pair, pair[::-1])]


def _sample(setting: Setting, length: int, depth: float, place: int, key: str, wrong: str) -> Sample:
    encode, held_out, beginning = setting.tokenizer.encode, setting.held_out, setting.tokenizer.beginning
    needle, query = encode(NEEDLE.format(key=key)), encode(QUERY)
    answers = np.stack([continuation(encode, QUERY, text) for text in (key, wrong)])
    room = length - len(beginning) - len(needle) - len(query) - answers.shape[1]
    start = place % (len(held_out) - room + 1)
    hay = held_out.flat[start : start + room]
    split = round(depth * room)
    prefix = np.concatenate([beginning, hay[:split], needle, hay[split:], query]).astype(np.int64)
    return Sample(prefix, answers, key, (len(beginning) + split) / len(prefix))


def _record(sample: Sample, figures: list[float]) -> Record:
    """The first of both readings in words, with the figures; None for figures of a text that could not be read."""
    about = {"answer": sample.key, "depth": sample.depth, "tokens": len(sample.prefix), "text": digest_of(sample.prefix, *sample.answers)}
    unread = math.isnan(figures[0])
    return about | {name: None if unread else figure for name, figure in zip(MEASURES, figures, strict=True)}


def _score(model: LanguageModel, reading: Scorer, samples: list[Sample]) -> np.ndarray:
    """[sample, (log-probability of the answer, margin, exact match)]; all samples have the same shape."""
    totals, exact = reading.answers(model, np.stack([s.prefix for s in samples]), np.stack([s.answers for s in samples]))
    # A text that could not be read has no exact match either, rather than a match of 0.
    matches = np.where(np.isnan(totals[:, 0]), np.nan, exact[:, 0])
    return np.stack([totals[:, 0], totals[:, 0] - totals[:, 1], matches], axis=1)
