"""The comparison of a sweep as CSV, page and terminal table: one row per strategy, mean ± standard error over seeds."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from elongate.atomic import written_aside
from elongate.evaluation.presentation.terminal import WIDTH
from elongate.report.comparison_page import comparison_html
from elongate.report.measures import REACH_COLUMNS, Column, key_of
from elongate.report.notes import unfinished_notes
from elongate.report.outcome import outcome
from elongate.report.page import write_csv
from elongate.report.ranking import Comparison, Row, compare
from elongate.report.sweeps import read_sweep

SIGNS = {"not distinguishable": "≈", "identical": "="}  # marks of rows in the terminal; the sentences below the table explain them


def write_comparison(sweep: Path) -> Path | None:
    """Writes `comparison.csv` and `comparison.html` into the sweep folder. Returns the page, or None without a finished run."""
    found = read_sweep(sweep)
    if not found.groups:
        return None
    comparison = compare(found)
    write_csv(sweep / "comparison.csv", csv_header(comparison), [csv_line(row, comparison) for row in comparison.rows])
    page = sweep / "comparison.html"
    with written_aside(page) as aside:
        aside.write_text(comparison_html(comparison, sweep.name), encoding="utf-8")
    return page


def comparison_summary(sweep: Path) -> str:
    """The short table for the terminal: what decides the order, needle, speed and memory."""
    found = read_sweep(sweep)
    if not found.groups:
        return "\n".join(["No finished run to compare.", *unfinished_notes(found)])
    comparison = compare(found)
    columns = [column for column in summary_columns(comparison) if comparison.has(column)]
    table = [["strategy", "seeds", *(column.title for column in columns), ""]]
    for row in comparison.rows:
        cells = [text_of(row, column) for column in columns]
        table.append([row.group.label, str(len(row.group.runs)), *cells, SIGNS.get(row.mark, row.mark)])
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    # Labels are shortened if the table would be wider than the terminal; the page and the CSV have them in full.
    widths[0] = max(12, min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = []
    for label, *cells, mark in table:
        padded = [text.rjust(width) for text, width in zip(cells, widths[1:-1], strict=True)]
        lines.append("  ".join([shorten(label, widths[0]), *padded, mark]).rstrip())
    notes = [textwrap.fill(note, WIDTH) for note in [*outcome(comparison), *comparison.notes]]
    return "\n".join([*lines, "", *notes])


def text_of(row: Row, column: Column) -> str:
    """A figure with its interval or standard error, as printed in the terminal."""
    return " ".join(filter(None, row.text(column)))


def summary_columns(comparison: Comparison) -> list[Column]:
    """The columns of the short table."""
    wanted = ["needle_margin_at_target", "tokens_per_second", "peak_memory_bytes"]
    if comparison.criterion:
        bins = [f"{row}_{key_of(comparison.criterion.bin)}" for row in ("before", "after") if comparison.criterion.bin]
        wanted = list(dict.fromkeys([*bins, comparison.criterion.column.key, *wanted]))
    by_key = {column.key: column for column in comparison.columns}
    return [by_key[key] for key in wanted if key in by_key]


def shorten(label: str, width: int) -> str:
    """The label in exactly `width` characters: padded with spaces, or cut and ended by `…`."""
    return label.ljust(width) if len(label) <= width else label[: width - 1] + "…"


def csv_header(comparison: Comparison) -> list[str]:
    """The column names of `comparison.csv`."""
    figures = [name for column in comparison.columns for name in (column.key, f"{column.key}_standard_error")]
    return [
        "strategy",
        "seeds",
        "num_seeds",
        "mark",
        "difference_to_best",
        "difference_to_best_standard_error",
        *figures,
        *(f"{column.key}_{end}" for column in reach_columns(comparison) for end in ("low", "high")),
    ]


def csv_line(row: Row, comparison: Comparison) -> list[Any]:
    """The line of a strategy, unrounded. Unknown figures (not measured, or errors of a single seed) are None, an empty cell."""
    estimates = [row.difference, *(row.estimates[column.key] for column in comparison.columns)]
    figures = [value for e in estimates for value in ((e.mean, e.standard_error) if e else (None, None))]
    reaches = [row.reaches.get(column.key) for column in reach_columns(comparison)]
    ends = [end for reach in reaches for end in ((reach.low, reach.high) if reach else (None, None))]
    return [row.group.label, " ".join(map(str, row.group.runs)), len(row.group.runs), row.mark, *figures, *ends]


def reach_columns(comparison: Comparison) -> list[Column]:
    """The columns that have an interval of their own."""
    return [column for column in comparison.columns if column in REACH_COLUMNS]
