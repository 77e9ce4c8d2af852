"""The runs of a folder that belong to the same sweep.

Sweeps with the same `name` write into the same folder. Runs are compared if they differ only in what a sweep varies, so a
strategy that a later command adds is compared with the others, and a sweep of something else is not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elongate.report.groups import Group, Run, Settings, labels, read_run

_CHOICE = "_target_"


@dataclass(frozen=True)
class Sweep:
    """The groups of a sweep. The lists name the run directories that are left out of them."""

    groups: list[Group]
    unfinished: list[str]
    repeated: list[str]  # another run has the same configuration and seed
    other: list[str]  # of another sweep


def read_sweep(directory: Path) -> Sweep:
    """Reads every run below the directory that has a `config.yaml`.

    A run is finished if its `results.json` has a budget, which is written after training. Of several runs with the
    same configuration and seed only the first by name is used.
    """
    runs, unfinished, repeated = [], [], []
    for config in sorted(directory.rglob("config.yaml"), key=natural_order):
        name = str(config.parent.relative_to(directory))
        if any(part.startswith(".") for part in Path(name).parts):
            continue  # every run directory also has a .hydra/config.yaml
        if run := read_run(config.parent):
            runs.append(run)
        else:
            unfinished.append(name)
    same, other = newest_sweep(runs)
    grouped: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in same:
        of_seed = grouped[json.dumps(run.settings, sort_keys=True)]
        if run.seed in of_seed:
            repeated.append(str(run.directory.relative_to(directory)))
        of_seed.setdefault(run.seed, run)
    members = [dict(sorted(of.items())) for of in grouped.values()]
    names = labels([next(iter(of.values())) for of in members])
    groups = [Group(label, of) for label, of in zip(names, members, strict=True)]
    return Sweep(groups, unfinished, repeated, [str(run.directory.relative_to(directory)) for run in other])


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts 10 after 9, because Hydra numbers the jobs of a sweep."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]


def newest_sweep(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of the newest sweep, and those of other sweeps. All are of one if the newest command varies nothing."""
    by_command: dict[str | None, list[Run]] = defaultdict(list)
    for run in runs:
        by_command[_provenance(run, "command")].append(run)
    varied = {command: varied_keys([run.settings for run in of]) for command, of in by_command.items()}
    if not runs:
        return [], []
    newest = max(runs, key=lambda run: _provenance(run, "date") or "")
    command = _provenance(newest, "command")
    if command is None or not varied[command]:
        return list(runs), []
    same: list[Run] = []
    other: list[Run] = []
    for run in runs:
        allowed = varied[command] | varied[_provenance(run, "command")]
        differing = varied_keys([run.settings, newest.settings])
        (same if all(_covered(key, allowed) for key in differing) else other).append(run)
    return same, other


def varied_keys(settings: Sequence[Settings]) -> set[str]:
    """The keys whose values differ, or that only some have."""
    keys = {key for of in settings for key in of}
    return {key for key in keys if any(key not in of or of[key] != settings[0].get(key) for of in settings)}


def _covered(key: str, allowed: set[str]) -> bool:
    """Whether the key is varied, or belongs to a choice that is."""
    choices = (choice.removesuffix(_CHOICE) for choice in allowed if choice.endswith(f".{_CHOICE}"))
    return key in allowed or any(key.startswith(choice) for choice in choices)


def _provenance(run: Run, key: str) -> str | None:
    value: str | None = run.results.get("provenance", {}).get(key)
    return value
