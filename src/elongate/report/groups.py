"""The runs of a sweep, grouped by everything but the seed, each group labelled by what sets it apart."""

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

# Keys that differ from run to run without making another experiment. A nested `seed` follows the one at the root.
RUN_KEYS = ("seed", "name", "tracking", "overwrite", "hydra")
# Lengths are shown where they differ, whatever choice they stand under: they decide what may be compared.
LENGTH_KEYS = ("model.original_length", "context.target_length")

Settings = dict[str, Any]  # dotted key to value


@dataclass(frozen=True)
class Run:
    """A finished run."""

    directory: Path
    seed: int
    settings: Settings
    results: dict[str, Any]

    def losses(self, part: str, row: str) -> dict[Bin, Estimate]:
        """Loss by bin of the curve's `table` or `fine` part; empty where it was not measured."""
        return losses_of(self.results["curve"][part], row) if "curve" in self.results else {}


@dataclass(frozen=True)
class Group:
    """The runs of one configuration by seed."""

    label: str
    runs: Mapping[int, Run]

    @cached_property
    def first(self) -> Run:
        return next(iter(self.runs.values()))

    def values(self, measure: Callable[[dict[str, Any]], float | None]) -> dict[int, float]:
        """A measure of the results by seed; seeds whose run has not computed it are left out."""
        measured = {seed: measure(run.results) for seed, run in self.runs.items()}
        return {seed: value for seed, value in measured.items() if value is not None}

    def losses(self, part: str, row: str) -> dict[Bin, Estimate]:
        """Mean loss by bin over the seeds; the standard errors over documents play no part in it."""
        by_bin: dict[Bin, list[float]] = defaultdict(list)
        for run in self.runs.values():
            for bin_, loss in run.losses(part, row).items():
                by_bin[bin_].append(loss.mean)
        return {bin_: mean for bin_, values in by_bin.items() if (mean := mean_over(values)) is not None}


@dataclass(frozen=True)
class Sweep:
    """The groups of a sweep; `unfinished` and `repeated` name the run directories that are left out of them."""

    groups: list[Group]
    unfinished: list[str]
    repeated: list[str]


def read_sweep(directory: Path) -> Sweep:
    """Every run below the directory that has a `config.yaml`.

    A run is finished once its `results.json` has a budget, which is written when training has ended. Of two runs with
    the same configuration and seed, the first by name counts: a repetition is no further seed.
    """
    grouped: dict[str, dict[int, Run]] = defaultdict(dict)
    unfinished, repeated = [], []
    for config in sorted(directory.rglob("config.yaml"), key=natural_order):
        name = str(config.parent.relative_to(directory))
        if any(part.startswith(".") for part in Path(name).parts):
            continue  # .hydra keeps a config.yaml of its own in every run directory
        run = read_run(config.parent)
        if run is None:
            unfinished.append(name)
            continue
        runs = grouped[json.dumps(run.settings, sort_keys=True)]
        if run.seed in runs:
            repeated.append(name)
        runs.setdefault(run.seed, run)
    members = [dict(sorted(runs.items())) for runs in grouped.values()]
    names = labels([next(iter(runs.values())) for runs in members])
    return Sweep([Group(label, runs) for label, runs in zip(names, members, strict=True)], unfinished, repeated)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """10 comes after 9: Hydra numbers the jobs of a sweep."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]


def read_run(directory: Path) -> Run | None:
    """The run, or None where it is not finished."""
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
    """The configuration with dotted keys, without what differs only from run to run."""
    flat = flatten({key: value for key, value in config.items() if key not in RUN_KEYS})
    return {key: value for key, value in flat.items() if key.rpartition(".")[2] != "seed"}


def flatten(node: dict[str, Any], prefix: str = "") -> Settings:
    flat: Settings = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def labels(runs: list[Run]) -> list[str]:
    """For each run (one a group), what sets it apart, as one would type it: `context=yarn optimizer.lr=0.002`.

    A choice is named by its word; settings below it only where runs that made the same choice differ in them.
    """
    sides = [choices(run) | {key: plain(value) for key, value in run.settings.items()} for run in runs]
    words = [choices(run) for run in runs]
    keys = list(dict.fromkeys(key for side in sides for key in side))
    shown = [key for key in keys if not key.endswith("_target_") and sets_apart(key, sides, words)]
    shown = shown or ["context"]
    return [" ".join(f"{key}={side[key]}" for key in shown if key in side) for side in sides]


def choices(run: Run) -> dict[str, str]:
    """Group to word, as on the command line; a module is named after its word, and so is a file of `conf/`."""
    words = {"model": run.results["strategy"]["model"], "context": run.results["strategy"]["context"]}
    for key, value in run.settings.items():
        node, _, last = key.rpartition(".")
        if last == "_target_" and node:
            words.setdefault(node.replace(".", "/"), value.split(".")[-2])
    return words


def sets_apart(key: str, sides: list[dict[str, str]], words: list[dict[str, str]]) -> bool:
    """Whether runs that agree in every choice above the key differ in it."""
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
    """A value as it is typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value)
