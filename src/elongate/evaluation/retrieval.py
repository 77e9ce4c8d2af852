"""Retrieval from far back: tasks in the manner of RULER (Hsieh et al. 2024, arXiv:2404.06654), by length and depth.

A sample is solved if greedy decoding writes the answer, which one prefill shows. The log-probability of the
answer, and whether it is preferred to a wrong one, grade small models too. With `generate` the model also
writes freely, and the values that it names are counted as RULER counts them. Every length has two controls:
the text without its needles, where any success is a leak, and needles and question alone, where nothing has
to be searched. All tasks together form one more task, `all`, as in RULER's average.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from elongate.data.retrieval.tasks import TASKS
from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting, check_writes
from elongate.evaluation.measurement.costs import Cost, Meter
from elongate.evaluation.measurement.intervals import Interval, share_interval
from elongate.evaluation.measurement.lengths import BATCH_TOKENS, check_depths, usual_lengths
from elongate.evaluation.measurement.matching import answer_values, share_named
from elongate.evaluation.measurement.samples import Record, digest_of
from elongate.evaluation.presentation.retrieval import ALL, COSTS, RetrievalPresentation

if TYPE_CHECKING:
    from elongate.data.retrieval.sample import Control, Sample
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

Cells = list[list[list[Record]]]  # the records of a task by length and depth

# ruler: a share. nolima: a part of the share at the shortest length (Modarressi et al. 2025, arXiv:2502.05167).
THRESHOLDS = {"ruler": 0.856, "nolima": 0.85}
_BEYOND = 4  # the longest text by default, in target lengths; the same as that of the curve


@dataclass(frozen=True)
class _Measured:
    """The model that is measured, and how."""

    model: LanguageModel
    setting: Setting
    tick: Callable[[str], None]
    meter: Meter


@dataclass(frozen=True, kw_only=True)
class Retrieval(RetrievalPresentation, Evaluation):
    """The share of right answers by task, length and depth."""

    tasks: list[str] | None = None  # null: all of them
    # Tokens, the answer included; null: the original length and its doublings to four times the target.
    lengths: list[int] | None = None
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])  # 0 the beginning, 1 the end
    num_samples: int = 2  # of each task, length and depth, at least 1
    threshold: str = "ruler"  # of the effective length: ruler, 85.6%; nolima, 85% of the share at the shortest length
    # The model also writes, 1.5 times the length of the answer, and the values that it names are counted.
    generate: bool = False

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks or [] if task not in TASKS]
        valid = self.tasks is None or (bool(self.tasks) and not unknown and len(set(self.tasks)) == len(self.tasks))
        require(valid, "tasks", self.tasks, f"must be of {', '.join(TASKS)}, each once", "use {key}=null for all")
        require(self.num_samples > 0, "num_samples", self.num_samples, "must be at least 1", "use {key}=2")
        check_depths(self.depths)
        valid = not self.lengths or (min(self.lengths) > 0 and self.lengths == sorted(set(self.lengths)))
        rule = "must be one or more lengths of at least 1, the shortest first"
        require(valid and self.lengths != [], "lengths", self.lengths, rule, "use {key}=null")
        require(self.threshold in THRESHOLDS, "threshold", self.threshold, f"must be one of {', '.join(THRESHOLDS)}", "use {key}=ruler")

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        asked = {"tasks": self._tasks, "lengths": self._lengths(setting), "depths": self.depths}
        return setting.lengths | asked | {"n": self.num_samples * len(self.depths), "threshold": self.threshold, "measures": self._measures}

    def check(self, reading: Scorer) -> None:
        if self.generate:
            check_writes(reading, "evaluation.retrieval.generate", True, "use {key}=false: answers are scored without it")

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        from elongate.models.probes import run_all

        model.network.eval()
        run_all(model)
        lengths = self._lengths(setting)
        controls: dict[Control, list[int]] = {"none": lengths, "without_needle": lengths, "without_haystack": lengths[:1]}
        measured = _Measured(model, setting, tick, Meter(model.device))
        found = {
            task: {control: [self._records(task, length, control, measured) for length in some] for control, some in controls.items()}
            for task in self._tasks
        }
        rows = {task: self._row(lengths, cells) for task, cells in found.items()}
        return rows if len(rows) == 1 else rows | {ALL: self._row(lengths, _together(list(found.values())))}

    @property
    def _tasks(self) -> list[str]:
        return self.tasks or list(TASKS)

    @property
    def _measures(self) -> list[str]:
        return ["preferred", "exact_match", *(["named"] if self.generate else [])]

    def _row(self, lengths: list[int], found: dict[Control, Cells]) -> dict[str, Any]:
        """By length: shares with intervals, over all depths and by depth, and controls; and the effective length."""
        cells = found["none"]
        row: dict[str, Any] = {}
        for measure in self._measures:
            row |= {
                measure: [_share(measure, *by_depth) for by_depth in cells],
                f"{measure}_interval": [_interval(measure, by_depth) for by_depth in cells],
                f"{measure}_by_depth": [[_share(measure, cell) for cell in by_depth] for by_depth in cells],
            }
        row["log_probability"] = [_share("log_probability", *by_depth) for by_depth in cells]
        row["depth"] = [[_share("depth", cell) for cell in by_depth] for by_depth in cells]
        row["costs"] = [_costs([record for cell in by_depth for record in cell]) for by_depth in cells]
        for control in ("without_needle", "without_haystack"):
            row[control] = {measure: [_share(measure, *by_depth) for by_depth in found[control]] for measure in self._measures}
        row["effective_length"] = {measure: self._effective(lengths, row, measure) for measure in self._measures}
        num_samples = sum(map(len, cells[0]))
        row["enough_samples"] = {
            measure: share_interval(num_samples, num_samples)[0] > self._threshold(row, measure) for measure in self._measures
        }
        return row

    def _threshold(self, row: dict[str, Any], measure: str) -> float:
        return THRESHOLDS[self.threshold] * ((row[measure][0] or 0.0) if self.threshold == "nolima" else 1.0)

    def _effective(self, lengths: list[int], row: dict[str, Any], measure: str) -> int:
        """The largest length up to which the lower end of every interval is above the threshold; 0 if none is.

        With too few samples no length can be above it, even if all answers are right: see `enough_samples`.
        """
        threshold, effective = self._threshold(row, measure), 0
        for length, interval in zip(lengths, row[f"{measure}_interval"], strict=True):
            if interval is None or interval[0] <= threshold:
                break
            effective = length
        return effective

    def _records(self, task: str, length: int, control: Control, measured: _Measured) -> list[list[Record]]:
        """By depth. Samples that were measured before are not read again. Without needles there is only one depth."""
        cells, setting = [], measured.setting
        for depth in self.depths[:1] if control == "without_needle" else self.depths:
            measured.tick(f"retrieval {task}, {length} tokens, depth {depth:g}")
            names = [f"{task}/{control}/{length}/{depth:g}/{number}" for number in range(self.num_samples)]
            left = [number for number, name in enumerate(names) if setting.samples.get(name) is None]
            samples = {names[number]: _sample(setting, task, length, depth, number, control) for number in left}
            within = control == "none" and length <= setting.original_length
            about = {"within_original": within, "depth_asked": depth, "seed": setting.seed}
            for batch in _batches(samples):
                found = self._answers(measured, list(batch.values()))
                setting.samples.add({name: about | record for name, record in zip(batch, found, strict=True)})
            cells.append([setting.samples.get(name) or {} for name in names])
        return cells

    def _answers(self, measured: _Measured, samples: list[Sample]) -> list[Record]:
        model, setting = measured.model, measured.setting
        prefixes, answers = np.stack([s.prefix for s in samples]), np.stack([s.answers for s in samples])

        def score(part: slice) -> Any:
            return setting.reading.answers(model, prefixes[part], answers[part])

        (totals, exact), cost = measured.meter.run(score, len(samples), (prefixes.shape[1], answers.shape[2]))
        records = [
            _record(sample, cost, right, wrong, written)
            for sample, (right, wrong), (written, _) in zip(samples, totals.tolist(), exact.tolist(), strict=True)
        ]
        return self._with_written(measured, prefixes, answers.shape[2], records) if self.generate else records

    def _with_written(self, measured: _Measured, prefixes: np.ndarray, size: int, records: list[Record]) -> list[Record]:
        """The records with the written text and the share of named values; None beyond the table of positions."""
        model, setting = measured.model, measured.setting
        # As far as a table of positions reaches, if that is enough for the answer.
        num_tokens = size + -(-size // 2)
        room = model.last_position(prefixes.shape[1] + num_tokens - 2) + 2 - prefixes.shape[1]
        found = setting.reading.continuation(model, prefixes, max(size, min(num_tokens, room)), lambda tokens: False)
        if found is None:
            return [record | {"written": None, "named": None} for record in records]
        texts = [setting.tokenizer.decode(tokens) for tokens in found]
        return [
            record | {"written": text, "named": share_named(text, answer_values(record["answer"]))}
            for record, text in zip(records, texts, strict=True)
        ]

    def _lengths(self, setting: Setting) -> list[int]:
        """The lengths that every task fits into and that the held-out text can fill."""
        usual = usual_lengths(setting.original_length, setting.target_length, setting.reading.two_sided, _BEYOND)
        asked = usual if self.lengths is None else self.lengths
        shortest = {task: _shortest(setting, task) for task in self._tasks}
        longest_task = max(shortest, key=shortest.__getitem__)
        fitting = [n for n in asked if shortest[longest_task] <= n <= len(setting.held_out)]
        if (self.lengths is not None and fitting != asked) or not fitting:
            rule = f"must be between {shortest[longest_task]} ({longest_task}) and {len(setting.held_out)} (the held-out text) tokens"
            remedy = "change {key}, or leave that task out of evaluation.retrieval.tasks"
            raise ConfigError("evaluation.retrieval.lengths", asked, rule, remedy)
        return fitting


def _together(tasks: list[dict[Control, Cells]]) -> dict[Control, Cells]:
    """The records of all tasks in one, by length and depth."""
    return {
        control: [
            [list(chain(*cell)) for cell in zip(*by_depth, strict=True)]
            for by_depth in zip(*(found[control] for found in tasks), strict=True)
        ]
        for control in tasks[0]
    }


def _costs(records: list[Record]) -> dict[str, float | None]:
    """Seconds and FLOPs of all prefills of a length, the highest peak memory, and seconds for each right answer."""
    if any(record["exact_match"] is None for record in records):
        return dict.fromkeys(COSTS)
    seconds, right = (sum(record[name] for record in records) for name in ("seconds", "exact_match"))
    return {
        "seconds": seconds,
        "tokens_per_second": sum(record["tokens"] for record in records) / seconds,
        "flops": sum(record["flops"] for record in records),
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in records),
        "seconds_per_right": seconds / right if right else None,
    }


def _share(measure: str, *cells: list[Record]) -> float | None:
    """The mean; None if a text was longer than the model's table of positions."""
    values = [record[measure] for cell in cells for record in cell]
    return None if None in values else sum(values) / len(values)


def _interval(measure: str, cells: list[list[Record]]) -> Interval | None:
    """A list with some named values counts as a failure, so intervals of lists are too wide, never too narrow."""
    values = [record[measure] for cell in cells for record in cell]
    return None if None in values else share_interval(int(sum(values)), len(values))


def _batches(samples: dict[str, Sample]) -> Iterator[dict[str, Sample]]:
    """Batches of samples of equal shapes."""
    by_shape: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for name, sample in samples.items():
        by_shape[len(sample.prefix), sample.answers.shape[1]].append(name)
    for (length, _), names in by_shape.items():
        rows = max(1, BATCH_TOKENS // length)
        for i in range(0, len(names), rows):
            yield {name: samples[name] for name in names[i : i + rows]}


def _sample(setting: Setting, task: str, length: int, depth: float, number: int, control: Control) -> Sample:
    from elongate.data.retrieval.sample import Place, build_sample

    place = Place(task, length, depth, number, setting.seed)
    return build_sample(place, setting.tokenizer.encode, setting.held_out.flat, control, setting.tokenizer.beginning)


def _shortest(setting: Setting, task: str) -> int:
    """Tokens that a sample of the task takes. Raises `ConfigError` if the tokenizer reads all answers alike."""
    from elongate.data.retrieval.answers import Indistinguishable
    from elongate.data.retrieval.sample import shortest_length

    try:
        return shortest_length(task, setting.tokenizer.encode, setting.seed) + len(setting.tokenizer.beginning)
    except Indistinguishable:
        rule = f"the tokenizer reads all answers of {task} as the same tokens"
        remedy = f"leave {task} out of {{key}}, or use another tokenizer"
        raise ConfigError("evaluation.retrieval.tasks", [task], rule, remedy) from None


def _record(sample: Sample, cost: Cost, right: float, wrong: float, written: bool) -> Record:
    unread = math.isnan(right)  # the text is longer than the model's table of positions
    scores = {"exact_match": written, "preferred": right > wrong, "log_probability": right, "log_probability_of_wrong": wrong}
    return {
        "answer": sample.problem.answer,
        "wrong": sample.problem.wrong,
        "tokens": len(sample.prefix),
        "text": digest_of(sample.prefix, *sample.answers),
        "depth": sample.depth,
        **vars(cost),
        **{key: None if unread else score for key, score in scores.items()},
    }
