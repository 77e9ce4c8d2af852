"""Strategies in the order of their loss, each with all of its figures and its difference to the best.

Rows are sorted by the loss after the extension in the last bin within the target length of every strategy. A row is
marked as not distinguishable from the best if the 95% interval of their difference, by Student's t over the common
seeds, contains 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from elongate.evaluation.presentation.drawings import Bin, Reach
from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.estimate import mean_over, paired_difference
from elongate.report.groups import Group, Sweep
from elongate.report.measures import COST_COLUMNS, NEEDLE_COLUMNS, REACH_COLUMNS, Column, key_of, loss_at, loss_columns
from elongate.report.notes import notes_on
from elongate.report.reach import over_seeds, reaches_of


@dataclass(frozen=True)
class Row:
    """A strategy in the comparison."""

    group: Group
    estimates: dict[str, Estimate | None]  # by column key; None if not measured
    difference: Estimate | None  # nats above the best; None for the best itself, and without a loss to rank by
    mark: str  # best, not distinguishable (from the best), or empty

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
    ranking: Bin | None  # the bin whose loss decides the order; None if the strategies share none
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
        return f"after_{key_of(self.ranking)}" if self.ranking else None


def compare(sweep: Sweep) -> Comparison:
    """The comparison of the finished runs of a sweep."""
    groups = sweep.groups
    ranking = ranking_bin(groups)
    reaches = [column for column in REACH_COLUMNS if any(group.values(column.measure) for group in groups)]
    columns = [*loss_columns(groups), *reaches, *NEEDLE_COLUMNS, *COST_COLUMNS]
    rows = [Row(group, estimates_of(group, columns), None, "") for group in groups]
    if ranking:
        rows = ranked(rows, ranking)
    return Comparison(columns, rows, ranking, notes_on(sweep))


def estimates_of(group: Group, columns: list[Column]) -> dict[str, Estimate | None]:
    """The mean of each figure over seeds, by column key."""
    return {column.key: mean_over(list(group.values(column.measure).values())) for column in columns}


def ranked(rows: list[Row], ranking: Bin) -> list[Row]:
    """The rows sorted by the loss in the bin, with difference and mark. Strategies without that loss come last, unmarked."""
    values = {row.group.label: row.group.values(loss_at("after", ranking)) for row in rows}
    measured = [row for row in rows if values[row.group.label]]
    measured.sort(key=lambda row: sum(values[row.group.label].values()) / len(values[row.group.label]))
    best = measured[0]
    marked = [Row(best.group, best.estimates, None, "best" if len(measured) > 1 else "")]
    for row in measured[1:]:
        difference = paired_difference(values[row.group.label], values[best.group.label])
        unclear = difference is not None and difference.standard_error is not None and not difference.positive
        marked.append(Row(row.group, row.estimates, difference, "not distinguishable" if unclear else ""))
    return [*marked, *(row for row in rows if not values[row.group.label])]


def ranking_bin(groups: list[Group]) -> Bin | None:
    """The last bin that every measured strategy has within its target length."""
    shared: set[Bin] | None = None
    for group in groups:
        losses = group.losses("table", "after")
        if losses:
            target_length = group.first.results["curve"]["target_length"]
            within = {bin_ for bin_ in losses if bin_[1] <= target_length}
            shared = within if shared is None else shared & within
    return max(shared, key=lambda bin_: bin_[1]) if shared else None
