"""Strategies in the order of the deciding figure, each with all of its figures and its distance to the best.

A row is marked as not distinguishable from the best if the 95% interval of their difference, by Student's t over the
common seeds, contains 0, and as identical if all that was measured is equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from elongate.evaluation.presentation.drawings import Reach
from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.criterion import Criterion, criterion_of
from elongate.report.estimate import mean_over, paired_difference
from elongate.report.fairness import fairness_notes, identical, same_bases
from elongate.report.groups import Group
from elongate.report.measures import COST_COLUMNS, NEEDLE_COLUMNS, REACH_COLUMNS, Column, loss_columns
from elongate.report.notes import notes_on
from elongate.report.reach import over_seeds, reaches_of
from elongate.report.sweeps import Sweep


@dataclass(frozen=True)
class Row:
    """A strategy in the comparison."""

    group: Group
    estimates: dict[str, Estimate | None]  # by column key; None if not measured
    difference: Estimate | None  # how much worse than the best; None for the best itself, and without a figure to rank by
    mark: str  # best, identical (to the best), not distinguishable (from it), or empty

    @cached_property
    def reaches(self) -> dict[str, Reach]:
        """How far back the text is used, over all seeds, by column key."""
        by_seed = [reaches_of(run.results, "after") for run in self.group.runs.values()]
        keys = dict.fromkeys(key for of in by_seed for key in of)
        return {key: over_seeds([of[key] for of in by_seed if key in of]) for key in keys}

    def text(self, column: Column) -> tuple[str, str]:
        """The figure, and its interval or standard error or an empty string, as printed."""
        estimate = self.estimates[column.key]
        if estimate is None:
            return "–", ""
        reach = self.reaches.get(column.key)
        return (reach.text, reach.interval_text) if reach else column.text(estimate)


@dataclass(frozen=True)
class Comparison:
    """The strategies of a sweep, best first."""

    columns: list[Column]
    rows: list[Row]
    criterion: Criterion | None  # what decides the order; None if the strategies share no figure that is comparable
    notes: list[str]  # how far the comparison can be trusted

    def has(self, column: Column) -> bool:
        """Whether at least one strategy has the figure."""
        return any(row.estimates[column.key] for row in self.rows)

    @property
    def several_seeds(self) -> bool:
        """Whether any strategy has several seeds, and so standard errors."""
        return any(len(row.group.runs) > 1 for row in self.rows)

    @property
    def deciding(self) -> str | None:
        """The key of the column that the rows are sorted by."""
        return self.criterion.column.key if self.criterion else None

    @property
    def is_fair(self) -> bool:
        """Whether all strategies extend the same base."""
        return same_bases([row.group for row in self.rows])


def compare(sweep: Sweep) -> Comparison:
    """The comparison of the finished runs of a sweep."""
    groups = sweep.groups
    criterion = criterion_of(groups)
    reaches = [column for column in REACH_COLUMNS if any(group.values(column.measure) for group in groups)]
    columns = [*loss_columns(groups), *reaches, *NEEDLE_COLUMNS, *COST_COLUMNS]
    if criterion and criterion.column.key not in {column.key for column in columns}:
        columns.insert(0, criterion.column)
    rows = [Row(group, estimates_of(group, columns), None, "") for group in groups]
    if criterion:
        rows = ranked(rows, criterion)
    return Comparison(columns, rows, criterion, [*fairness_notes(groups), *notes_on(sweep)])


def estimates_of(group: Group, columns: list[Column]) -> dict[str, Estimate | None]:
    """The mean of each figure over seeds, by column key."""
    return {column.key: mean_over(list(group.values(column.measure).values())) for column in columns}


def ranked(rows: list[Row], criterion: Criterion) -> list[Row]:
    """The rows sorted by the criterion, with difference and mark. Strategies without that figure come last, unmarked."""
    values = {row.group.label: criterion.values(row.group) for row in rows}
    measured = [row for row in rows if values[row.group.label]]
    measured.sort(key=lambda row: sum(values[row.group.label].values()) / len(values[row.group.label]))
    best = measured[0]
    marked = [Row(best.group, best.estimates, None, "best" if len(measured) > 1 else "")]
    for row in measured[1:]:
        difference = paired_difference(values[row.group.label], values[best.group.label])
        marked.append(Row(row.group, row.estimates, difference, _mark(row.group, best.group, difference)))
    return [*marked, *(row for row in rows if not values[row.group.label])]


def _mark(group: Group, best: Group, difference: Estimate | None) -> str:
    if identical(group, best):
        return "identical"
    unclear = difference is not None and difference.standard_error is not None and not difference.positive
    return "not distinguishable" if unclear else ""
