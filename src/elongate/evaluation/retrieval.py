"""Finding what stands far back: tasks in the manner of RULER (Hsieh et al. 2024, arXiv:2404.06654), by length and depth.

A sample is solved when greedy decoding writes the answer, which one prefill tells; beside it stand the log-probability of the answer and
whether it is preferred to a wrong one, by which a small model can be graded too. `generate` lets the model write, and counts what it names
as RULER does. Two controls belong to every length: the text without its needles, where there is nothing to find and what is found is a
leak, and needles and question alone, where there is nothing to search. All tasks together are one more, `all`, as RULER averages them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from elongate.data.retrieval.tasks import TASKS
from elongate.errors import ConfigError, require
from elongate.evaluation.costs import Cost, Meter
from elongate.evaluation.evaluation import Evaluation, Setting, check_depths, check_writes, usual_lengths
from elongate.evaluation.intervals import Interval, of_share
from elongate.evaluation.matching import share_named, values_of
from elongate.evaluation.samples import Record, digest_of

if TYPE_CHECKING:
    from elongate.data.retrieval.sample import Control, Place, Sample
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

Cells = list[list[list[Record]]]  # of a task: by length and depth

BATCH_TOKENS = 8192  # prefilled at once
THRESHOLDS = {"ruler": 0.856, "nolima": 0.85}  # a share; of the share at the shortest length (Modarressi et al. 2025, arXiv:2502.05167)
ALL = "all"  # tasks together
_BEYOND = 4  # times the target length that the longest text is by default, as the curve


@dataclass(frozen=True)
class _One:
    """The model that is measured, and how."""

    model: LanguageModel
    setting: Setting
    tick: Callable[[str], None]
    meter: Meter


@dataclass(frozen=True, kw_only=True)
class Retrieval(Evaluation):
    tasks: list[str] | None = None  # null: all of them
    lengths: list[int] | None = None  # tokens, the answer included; null: the original length and its doublings to four times the target
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])  # 0 the beginning, 1 the end
    num_samples: int = 2  # of each task, length and depth, at least 1
    threshold: str = "ruler"  # of effective length: ruler, 85.6%; nolima, 85% of the share at the shortest length
    generate: bool = False  # the model also writes, half as much again as the answer is long, and the values that it names are counted

    word: ClassVar[str] = "retrieval"

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks or [] if task not in TASKS]
        require(
            self.tasks is None or (bool(self.tasks) and not unknown and len(set(self.tasks)) == len(self.tasks)),
            "tasks",
            self.tasks,
            f"must be of {', '.join(TASKS)}, each once",
            "use {key}=null for all",
        )
        require(self.num_samples > 0, "num_samples", self.num_samples, "must be at least 1", "use {key}=2")
        check_depths(self.depths)
        sound = self.lengths is None or (
            bool(self.lengths) and all(n > 0 for n in self.lengths) and self.lengths == sorted(set(self.lengths))
        )
        require(sound, "lengths", self.lengths, "must be one or more lengths of at least 1, the shortest first", "use {key}=null")
        require(self.threshold in THRESHOLDS, "threshold", self.threshold, f"must be one of {', '.join(THRESHOLDS)}", "use {key}=ruler")

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        lengths = {"original_length": setting.original_length, "target_length": setting.target_length}
        asked = {"tasks": self._tasks, "lengths": self._lengths(setting), "depths": self.depths}
        return lengths | asked | {"n": self.num_samples * len(self.depths), "threshold": self.threshold, "measures": self._measures}

    def check(self, reading: Scorer) -> None:
        if self.generate:
            check_writes(reading, "evaluation.retrieval.generate", True, "use {key}=false: answers are scored without it")

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        model.network.eval()
        lengths = self._lengths(setting)
        controls: dict[Control, list[int]] = {"none": lengths, "without_needle": lengths, "without_haystack": lengths[:1]}
        one = _One(model, setting, tick, Meter(model.device))
        found = {
            task: {control: [self._records(task, length, control, one) for length in some] for control, some in controls.items()}
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
        """By length: shares with their intervals, over all depths and by depth, and the two controls; of all lengths: how far it goes."""
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
        return row

    def _effective(self, lengths: list[int], row: dict[str, Any], measure: str) -> int:
        """The largest length up to which the lower end of every interval stays above the threshold; 0: not even the shortest does."""
        threshold = THRESHOLDS[self.threshold] * ((row[measure][0] or 0.0) if self.threshold == "nolima" else 1.0)
        effective = 0
        for length, interval in zip(lengths, row[f"{measure}_interval"], strict=True):
            if interval is None or interval[0] <= threshold:
                break
            effective = length
        return effective

    def _records(self, task: str, length: int, control: Control, one: _One) -> list[list[Record]]:
        """By depth; those that were measured before are taken as they are. Where there is no needle there is one depth."""
        cells, setting = [], one.setting
        for depth in self.depths[:1] if control == "without_needle" else self.depths:
            one.tick(f"retrieval {task}, {length} tokens, depth {depth:g}")
            names = [f"{task}/{control}/{length}/{depth:g}/{number}" for number in range(self.num_samples)]
            left = [number for number, name in enumerate(names) if setting.samples.get(name) is None]
            samples = {names[number]: _made(setting, task, length, depth, number, control) for number in left}
            for some in _alike(samples):
                found = self._answered(one, list(some.values()))
                known = {
                    "within_original": control == "none" and length <= setting.original_length,
                    "depth_asked": depth,
                    "seed": setting.seed,
                }
                setting.samples.add({name: known | record for name, record in zip(some, found, strict=True)})
            cells.append([setting.samples.get(name) or {} for name in names])
        return cells

    def _answered(self, one: _One, samples: list[Sample]) -> list[Record]:
        model, setting = one.model, one.setting
        prefixes, answers = np.stack([s.prefix for s in samples]), np.stack([s.answers for s in samples])
        (totals, exact), cost = one.meter.measured(
            lambda some: setting.reading.answers(model, prefixes[some], answers[some]), len(samples), (prefixes.shape[1], answers.shape[2])
        )
        records = [
            _record(sample, cost, right, wrong, written)
            for sample, (right, wrong), (written, _) in zip(samples, totals.tolist(), exact.tolist(), strict=True)
        ]
        if self.generate:
            size = answers.shape[2] + -(-answers.shape[2] // 2)
            # As far as a table of positions reaches, where that is enough for the answer.
            room = model.last_position(prefixes.shape[1] + size - 2) + 2 - prefixes.shape[1]
            size = max(answers.shape[2], min(size, room))
            found = setting.reading.continuation(model, prefixes, size, lambda tokens: False)
            for i, record in enumerate(records):
                text = None if found is None else setting.tokenizer.decode(found[i])
                record["written"], record["named"] = text, None if text is None else share_named(text, values_of(record["answer"]))
        return records

    def _lengths(self, setting: Setting) -> list[int]:
        """Those that hold all that every task says and that the held-out text fills; none beyond the target where both sides are seen."""
        asked = usual_lengths(setting, _BEYOND) if self.lengths is None else self.lengths
        shortest = {task: _shortest(setting, task) for task in self._tasks}
        longest_task = max(shortest, key=shortest.__getitem__)
        fitting = [n for n in asked if shortest[longest_task] <= n <= len(setting.held_out)]
        if (self.lengths is not None and fitting != asked) or not fitting:
            rule = f"must be between {shortest[longest_task]} ({longest_task}) and {len(setting.held_out)} (the held-out text) tokens"
            raise ConfigError(
                "evaluation.retrieval.lengths", asked, rule, "change {key}, or leave that task out of evaluation.retrieval.tasks"
            )
        return fitting


def _together(tasks: list[dict[Control, Cells]]) -> dict[Control, Cells]:
    """Cells with the records of all tasks, by length and depth."""
    return {
        control: [
            [list(chain(*cell)) for cell in zip(*by_depth, strict=True)]
            for by_depth in zip(*(found[control] for found in tasks), strict=True)
        ]
        for control in tasks[0]
    }


def _costs(records: list[Record]) -> dict[str, float | None]:
    """Of the samples of a length: seconds and FLOPs of all prefills, the most memory of any, and seconds for each answer that is right."""
    if any(record["exact_match"] is None for record in records):
        return dict.fromkeys(("seconds", "tokens_per_second", "flops", "peak_memory_bytes", "seconds_per_right"))
    seconds, right = (sum(record[name] for record in records) for name in ("seconds", "exact_match"))
    return {
        "seconds": seconds,
        "tokens_per_second": sum(record["tokens"] for record in records) / seconds,
        "flops": sum(record["flops"] for record in records),
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in records),
        "seconds_per_right": seconds / right if right else None,
    }


def _share(measure: str, *cells: list[Record]) -> float | None:
    """The mean; None where a text was longer than the model's table of positions."""
    values = [record[measure] for cell in cells for record in cell]
    return None if None in values else sum(values) / len(values)


def _interval(measure: str, cells: list[list[Record]]) -> Interval | None:
    """Half a list of values that was named is no success: so it is too wide where answers are lists, not too narrow."""
    values = [record[measure] for cell in cells for record in cell]
    return None if None in values else of_share(int(sum(values)), len(values))


def _alike(samples: dict[str, Sample]) -> Iterator[dict[str, Sample]]:
    """In batches of equal lengths."""
    by_shape: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for name, sample in samples.items():
        by_shape[len(sample.prefix), sample.answers.shape[1]].append(name)
    for (length, _), names in by_shape.items():
        rows = max(1, BATCH_TOKENS // length)
        for i in range(0, len(names), rows):
            yield {name: samples[name] for name in names[i : i + rows]}


def _place(setting: Setting, task: str, length: int, depth: float, number: int) -> Place:
    from elongate.data.retrieval.sample import Place

    return Place(task, length, depth, number, setting.seed)


def _made(setting: Setting, task: str, length: int, depth: float, number: int, control: Control) -> Sample:
    from elongate.data.retrieval.sample import made

    return made(_place(setting, task, length, depth, number), setting.tokenizer.encode, setting.held_out.flat, control)


def _shortest(setting: Setting, task: str) -> int:
    """Tokens that a sample of the task takes. Raises `ConfigError` where the tokenizer reads all answers of the task alike."""
    from elongate.data.retrieval.answers import Indistinguishable
    from elongate.data.retrieval.sample import shortest_length

    try:
        return shortest_length(task, setting.tokenizer.encode, setting.seed)
    except Indistinguishable:
        rule = f"the tokenizer reads all answers of {task} as the same tokens"
        remedy = f"leave {task} out of {{key}}, or use another tokenizer"
        raise ConfigError("evaluation.retrieval.tasks", [task], rule, remedy) from None


def _record(sample: Sample, cost: Cost, right: float, wrong: float, written: bool) -> Record:
    unread = right != right  # nan: the text is longer than the model's table of positions
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
