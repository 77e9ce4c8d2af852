"""Finished runs, grouped by configuration: the runs of a group differ in the seed only."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from elongate.evaluation.presentation.curve import losses_of
from elongate.evaluation.presentation.drawings import Bin
from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.estimate import mean_over
from elongate.trees import flatten

# Keys that may differ between runs of the same experiment. A nested `seed` follows the one at the root.
RUN_KEYS = ("seed", "name", "tracking", "overwrite", "hydra")
# Lengths are shown whenever they differ, even if the choices above them differ too: they decide which runs are comparable.
LENGTH_KEYS = ("model.original_length", "context.target_length")

Settings = dict[str, Any]  # dotted key to value


@dataclass(frozen=True)
class Run:
    """A finished run."""

    directory: Path
    seed: int
    settings: Settings  # without `RUN_KEYS`
    results: dict[str, Any]  # results.json

    def losses(self, part: str, row: str) -> dict[Bin, Estimate]:
        """Loss by bin of the curve's `table` or `fine` part; empty if it was not measured."""
        return losses_of(self.results["curve"][part], row) if "curve" in self.results else {}


@dataclass(frozen=True)
class Group:
    """The runs of one configuration by seed."""

    label: str
    runs: Mapping[int, Run]

    @cached_property
    def first(self) -> Run:
        """The run with the smallest seed."""
        return next(iter(self.runs.values()))

    def values(self, measure: Callable[[dict[str, Any]], float | None]) -> dict[int, float]:
        """A measure of the results by seed; seeds without it are left out."""
        measured = {seed: measure(run.results) for seed, run in self.runs.items()}
        return {seed: value for seed, value in measured.items() if value is not None}

    def losses(self, part: str, row: str) -> dict[Bin, Estimate]:
        """Mean loss by bin over the seeds. Its error is that over seeds; errors over documents are not used."""
        by_bin: dict[Bin, list[float]] = defaultdict(list)
        for run in self.runs.values():
            for bin_, loss in run.losses(part, row).items():
                by_bin[bin_].append(loss.mean)
        return {bin_: mean for bin_, values in by_bin.items() if (mean := mean_over(values)) is not None}


def read_run(directory: Path) -> Run | None:
    """The run, or None if it is not finished."""
    import yaml

    results_file = directory / "results.json"
    if not results_file.exists():
        return None
    results = json.loads(results_file.read_text(encoding="utf-8"))
    if "budget" not in results:
        return None
    config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    return Run(directory, config["seed"], settings_of(config), results)


def settings_of(config: dict[str, Any]) -> Settings:
    """The configuration with dotted keys, without `RUN_KEYS` and nested seeds."""
    flat = flatten({key: value for key, value in config.items() if key not in RUN_KEYS})
    return {key: value for key, value in flat.items() if key.rpartition(".")[2] != "seed"}


def labels(runs: list[Run]) -> list[str]:
    """A label for each run (one per group) in the syntax of the command line: `context=yarn optimizer.lr=0.002`.

    A label names the choices that differ. It names a setting below a choice only if runs with the same choice differ in it.
    """
    sides = [choices(run) | {key: plain(value) for key, value in run.settings.items()} for run in runs]
    words = [choices(run) for run in runs]
    keys = list(dict.fromkeys(key for side in sides for key in side))
    shown = [key for key in keys if not key.endswith("_target_") and sets_apart(key, sides, words)]
    shown = shown or ["context"]
    return [" ".join(f"{key}={side[key]}" for key in shown if key in side) for side in sides]


def choices(run: Run) -> dict[str, str]:
    """Words by group, as on the command line. The word is the name of the class's module, which equals the name of its YAML file."""
    words = {"model": run.results["strategy"]["model"], "context": run.results["strategy"]["context"]}
    for key, value in run.settings.items():
        node, _, last = key.rpartition(".")
        if last == "_target_" and node:
            words.setdefault(node.replace(".", "/"), value.split(".")[-2])
    return words


def sets_apart(key: str, sides: list[dict[str, str]], words: list[dict[str, str]]) -> bool:
    """Whether the value of the key differs between runs that agree in every choice above it."""
    values = [side.get(key) for side in sides]
    if key in LENGTH_KEYS:
        return len(set(values)) > 1
    parts = key.replace("/", ".").split(".")
    above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
    seen: dict[tuple[str | None, ...], set[str | None]] = defaultdict(set)
    for value, word in zip(values, words, strict=True):
        seen[tuple(word.get(node) for node in above)].add(value)
    return any(len(different) > 1 for different in seen.values())


def plain(value: Any) -> str:
    """The value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)
