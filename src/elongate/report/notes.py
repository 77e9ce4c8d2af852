"""Notes on how far a comparison can be trusted: equal tokens, number of seeds, missing runs."""

from __future__ import annotations

from collections import defaultdict

from elongate.report.groups import Group
from elongate.report.sweeps import Sweep

FEW_SEEDS = 5  # with fewer, small differences cannot be distinguished from chance, and the page says so


def notes_on(sweep: Sweep) -> list[str]:
    """All notes on a sweep, each one or more sentences."""
    return [*same_tokens_notes(sweep.groups), *seed_notes(sweep.groups), *unfinished_notes(sweep)]


def same_tokens_notes(groups: list[Group]) -> list[str]:
    """Whether strategies of the same seed were trained on the same tokens in the same order, and on equally many."""
    if len(groups) < 2:
        return []
    by_seed: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for seed, run in group.runs.items():
            by_seed[seed][run.results["data"]["consumed_tokens_sha256"]].append(group.label)
    shared = {seed: seen for seed, seen in sorted(by_seed.items()) if sum(map(len, seen.values())) > 1}
    unequal = {seed: seen for seed, seen in shared.items() if len(seen) > 1}
    notes = []
    if not shared:
        notes.append("No two strategies share a seed, so they were trained on different tokens.")
    elif unequal:
        sides = [f"seed {seed}: {' / '.join(', '.join(names) for names in seen.values())}" for seed, seen in unequal.items()]
        notes.append(f"The strategies did not see the same tokens, so differences may come from the data ({'; '.join(sides)}).")
    else:
        notes.append(f"With the same seed all strategies saw the same tokens in the same order (by hash; {seeds_text(list(shared))}).")
    budgets = {group.first.results["budget"]["tokens"] for group in groups}
    if len(budgets) > 1:
        notes.append(f"The budgets differ, from {min(budgets):,} to {max(budgets):,} tokens.")
    return notes


def seeds_text(seeds: list[int]) -> str:
    """`seed 0`, or `seeds 0, 1`."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def seed_notes(groups: list[Group]) -> list[str]:
    """How much can be concluded from this number of seeds, and which strategies lack a seed."""
    counts = [len(group.runs) for group in groups]
    notes = []
    if max(counts) == 1:
        notes.append("There is one seed per strategy, so there are no standard errors and the order may be chance.")
    elif max(counts) < FEW_SEEDS:
        notes.append(f"With at most {max(counts)} seeds only large differences can be distinguished from chance.")
    every = sorted({seed for group in groups for seed in group.runs})
    for group in groups:
        missing = [seed for seed in every if seed not in group.runs]
        if missing:
            notes.append(f"{group.label} has no finished run for {seeds_text(missing)}.")
    return notes


def unfinished_notes(sweep: Sweep) -> list[str]:
    """Which runs are left out of the comparison, and why."""
    notes = [f"Left out because they are not finished: {', '.join(sweep.unfinished)}."] if sweep.unfinished else []
    if sweep.repeated:
        notes.append(f"Left out because another run has the same configuration and seed: {', '.join(sweep.repeated)}.")
    if sweep.other:
        notes.append(f"Left out because they are of another sweep with the same name: {', '.join(sweep.other)}. Give each sweep a `name`.")
    return notes
