"""The comparison of a sweep: one row a strategy, mean ± standard error over seeds, as CSV, page and terminal table.

Rows are sorted by the loss after the extension in the last bin that lies within every strategy's target length. A
row is marked as not distinguishable from the best where their difference, paired over the common seeds, is within two
standard errors.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elongate.evaluation.report.canvas import png
from elongate.evaluation.report.estimate import Estimate, mean_over, paired_difference
from elongate.evaluation.report.figures import strategies_figure
from elongate.evaluation.report.groups import Group, Run, Sweep, read_sweep
from elongate.evaluation.report.measures import COST_COLUMNS, NEEDLE_COLUMNS, Column, key_of, loss_at, loss_columns
from elongate.evaluation.report.notes import notes_on, unfinished_notes
from elongate.evaluation.report.page import data_uri, render, write_csv
from elongate.evaluation.report.sections import Bin, span
from elongate.evaluation.report.table import WIDTH
from elongate.files import written_aside


@dataclass(frozen=True)
class Row:
    """A strategy: its figures by column key, and how it stands to the best (`best`, `not distinguishable` or empty)."""

    group: Group
    estimates: dict[str, Estimate | None]
    difference: Estimate | None
    mark: str


@dataclass(frozen=True)
class Comparison:
    columns: list[Column]
    rows: list[Row]
    ranking: Bin | None
    notes: list[str]

    def has(self, column: Column) -> bool:
        """Whether any strategy has the figure."""
        return any(row.estimates[column.key] for row in self.rows)


def write_comparison(sweep: Path) -> Path | None:
    """Writes `comparison.csv` and `comparison.html` into the sweep folder; the page, or None without a finished run."""
    found = read_sweep(sweep)
    if not found.groups:
        return None
    comparison = compare(found)
    write_csv(sweep / "comparison.csv", csv_header(comparison), [csv_line(row, comparison) for row in comparison.rows])
    page = sweep / "comparison.html"
    with written_aside(page) as aside:
        aside.write_text(
            render(
                "comparison.html.jinja",
                name=sweep.name,
                comparison=comparison,
                ranking=span(comparison.ranking) if comparison.ranking else None,
                ranking_key=f"after_{key_of(comparison.ranking)}" if comparison.ranking else None,
                tables=page_tables(comparison),
                figure=figure_of(comparison),
            ),
            encoding="utf-8",
        )
    return page


def comparison_summary(sweep: Path) -> str:
    """The table in short, for the terminal: rank, the losses that decide it, needle, speed and memory."""
    found = read_sweep(sweep)
    if not found.groups:
        return "\n".join(["No finished run to compare.", *unfinished_notes(found)])
    comparison = compare(found)
    columns = [column for column in summary_columns(comparison) if comparison.has(column)]
    table = [["strategy", "seeds", *(column.title for column in columns), ""]]
    for row in comparison.rows:
        cells = [text_of(row, column) for column in columns]
        table.append([row.group.label, str(len(row.group.runs)), *cells, row.mark])
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    # The label gives way where the table would be wider than the terminal; the page and the CSV have it whole.
    widths[0] = max(12, min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = []
    for label, *cells, mark in table:
        padded = [text.rjust(width) for text, width in zip(cells, widths[1:-1], strict=True)]
        lines.append("  ".join([shorten(label, widths[0]), *padded, mark]).rstrip())
    notes = [textwrap.fill(note, WIDTH) for note in comparison.notes]
    return "\n".join([*lines, "", *notes])


def text_of(row: Row, column: Column) -> str:
    estimate = row.estimates[column.key]
    return " ".join(filter(None, column.text(estimate))) if estimate else "–"


def summary_columns(comparison: Comparison) -> list[Column]:
    wanted = ["needle_margin_at_target", "tokens_per_second", "peak_memory_bytes"]
    if comparison.ranking:
        wanted = [f"before_{key_of(comparison.ranking)}", f"after_{key_of(comparison.ranking)}", *wanted]
    by_key = {column.key: column for column in comparison.columns}
    return [by_key[key] for key in wanted if key in by_key]


def shorten(label: str, width: int) -> str:
    return label.ljust(width) if len(label) <= width else label[: width - 1] + "…"


def compare(sweep: Sweep) -> Comparison:
    groups = sweep.groups
    ranking = ranking_bin(groups)
    columns = [*loss_columns(groups), *NEEDLE_COLUMNS, *COST_COLUMNS]
    rows = [Row(group, estimates_of(group, columns), None, "") for group in groups]
    if ranking:
        rows = ranked(rows, ranking)
    return Comparison(columns, rows, ranking, [*best_note(rows, ranking), *notes_on(sweep)])


def best_note(rows: list[Row], ranking: Bin | None) -> list[str]:
    """Who has the lowest loss, and who cannot be told apart from it."""
    if ranking is None or rows[0].mark != "best":
        return []
    loss = rows[0].estimates[f"after_{key_of(ranking)}"]
    best = f"{rows[0].group.label} has the lowest loss at {span(ranking)} tokens, {loss:.3f} nats"
    close = [row.group.label for row in rows if row.mark == "not distinguishable"]
    return [f"{best}; not distinguishable from it: {', '.join(close)}." if close else f"{best}."]


def estimates_of(group: Group, columns: list[Column]) -> dict[str, Estimate | None]:
    return {column.key: mean_over(list(group.values(column.measure).values())) for column in columns}


def ranked(rows: list[Row], ranking: Bin) -> list[Row]:
    """Sorted by the loss in the bin; strategies that did not measure it come last, unmarked."""
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


def page_tables(comparison: Comparison) -> list[tuple[str, list[Column]]]:
    """Title and columns of the tables of the page; a column that no strategy has a figure for is left out."""
    decisive = f"before_{key_of(comparison.ranking)}" if comparison.ranking else None
    losses = [column for column in comparison.columns if column.key.startswith("after_") or column.key == decisive]
    parts = [
        ("Loss in nats by position", losses),
        ("Needle after the extension", NEEDLE_COLUMNS),
        ("Cost", COST_COLUMNS),
    ]
    measured = [(title, [column for column in columns if comparison.has(column)]) for title, columns in parts]
    return [(title, columns) for title, columns in measured if columns]


def csv_header(comparison: Comparison) -> list[str]:
    figures = [name for column in comparison.columns for name in (column.key, f"{column.key}_standard_error")]
    return [
        "strategy",
        "seeds",
        "num_seeds",
        "mark",
        "difference_to_best",
        "difference_to_best_standard_error",
        *figures,
    ]


def csv_line(row: Row, comparison: Comparison) -> list[Any]:
    """Unrounded; what is not known (no measurement, one seed) is an empty cell."""
    estimates = [row.difference, *(row.estimates[column.key] for column in comparison.columns)]
    figures = [value for e in estimates for value in ((e.mean, e.standard_error) if e else (None, None))]
    return [row.group.label, " ".join(map(str, row.group.runs)), len(row.group.runs), row.mark, *figures]


def figure_of(comparison: Comparison) -> str | None:
    """The `after` curves of all strategies, and `before` where runs of equal seed share it with the base."""
    curves = {row.group.label: losses for row in comparison.rows if (losses := row.group.losses("fine", "after"))}
    if not curves:
        return None
    strategy = comparison.rows[0].group.first.results["strategy"]
    before = shared_before([row.group for row in comparison.rows])
    return data_uri(png(strategies_figure(curves, before, strategy["original_length"], strategy["target_length"])))


def shared_before(groups: list[Group]) -> dict[Bin, Estimate]:
    by_seed: dict[int, Run] = {}
    for group in groups:
        for seed, run in group.runs.items():
            known = by_seed.setdefault(seed, run)
            if run.losses("fine", "before") != known.losses("fine", "before"):
                return {}
    return Group("", by_seed).losses("fine", "before")
