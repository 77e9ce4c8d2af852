"""The table that ends a run in the terminal: loss by position, needle, budget, and in words what the extension bought.

Imports nothing heavy: the table of a finished run is printed within a second.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from itertools import groupby
from typing import Any

from elongate.report.estimate import Estimate
from elongate.report.sections import (
    AS_TRAINED,
    Bin,
    bins_of,
    duration,
    figure_of,
    figures_of,
    harness_lines,
    harness_rows,
    losses_of,
    mebibytes,
    needle_of,
    region,
    retrieval_rows,
    retrieval_tasks,
    rows_of,
    span,
    tables_by_length,
)
from elongate.report.verdict import verdict

WIDTH = 100


def terminal_table(results: dict[str, Any]) -> str:
    """Plain text, at most 100 columns wide; sections that were not computed are left out."""
    parts = []
    if "curve" in results:
        parts.append(curve_text(results["curve"]))
    if "needle" in results:
        parts.append(needle_text(results["needle"]))
    parts += map(by_length_text, tables_by_length(results))
    if "retrieval" in results:
        parts.append(retrieval_text(results["retrieval"]))
    parts += [task_text(name, section) for name, section in figures_of(results).items()]
    if "lm_eval" in results:
        parts.append(harness_text(results["lm_eval"]))
    if "budget" in results:
        parts.append(budget_text(results["budget"]))
    sentences = verdict(results)
    if sentences:
        parts.append(textwrap.fill(" ".join(sentences), WIDTH))
    return "\n\n".join(parts)


def curve_text(curve: dict[str, Any]) -> str:
    """One column a bin, the standard error below the loss; columns that do not fit beside each other follow below."""
    rows = {row: losses_of(curve["table"], row) for row in rows_of(curve["table"])}
    blocks = [f"Loss in nats by position, ± standard error over {curve['n']} documents"]
    remaining = bins_of(curve["table"])
    while remaining:
        count = len(remaining)
        while count > 1 and width_of(curve_lines(curve, remaining[:count], rows)) > WIDTH:
            count -= 1
        blocks.append("\n".join(line.rstrip() for line in curve_lines(curve, remaining[:count], rows)))
        remaining = remaining[count:]
    return "\n\n".join(blocks)


def curve_lines(curve: dict[str, Any], bins: list[Bin], rows: dict[str, dict[Bin, Estimate]]) -> list[str]:
    stub = ["", "tokens", *(text for row in rows for text in (row, ""))]
    lines = [text.ljust(max(map(len, stub))) for text in stub]
    for name, group in groupby(bins, lambda bin_: region(bin_, curve["original_length"], curve["target_length"])):
        joint = "   " if name == AS_TRAINED else " │ "
        lines = [line + joint + cell for line, cell in zip(lines, region_cells(name, list(group), rows), strict=True)]
    return lines


def width_of(lines: list[str]) -> int:
    return max(map(len, lines))


def region_cells(name: str, bins: list[Bin], rows: dict[str, dict[Bin, Estimate]]) -> list[str]:
    """The lines of neighbouring columns that lie in the same region, under its name."""
    columns = [loss_column(bin_, rows) for bin_ in bins]
    lines = ["  ".join(cells) for cells in zip(*columns, strict=True)]
    width = max(len(name), len(lines[0]))
    return [name.ljust(width), *(line.ljust(width) for line in lines)]


def loss_column(bin_: Bin, rows: dict[str, dict[Bin, Estimate]]) -> list[str]:
    cells = [span(bin_)]
    for losses in rows.values():
        loss = losses.get(bin_)
        cells.append(f"{loss.mean:.3f}" if loss else "-")
        cells.append(f"±{loss.standard_error:.3f}" if loss and loss.standard_error is not None else "")
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def needle_text(needle: dict[str, Any]) -> str:
    rows = rows_of(needle)
    margins = [needle_of(needle, row, "margin") for row in rows]
    matches = [needle_of(needle, row, "exact_match") for row in rows]
    table = [["length", "margin in nats", "exact match"]]
    for length in needle["lengths"]:
        margin = " → ".join(f"{values[length]:.2f}" if length in values else "-" for values in margins)
        match = " → ".join(f"{values[length].mean:.2f}" if length in values else "-" for values in matches)
        table.append([str(length), margin, match])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"{length:>{widths[0]}}   {margin:<{widths[1]}}   {match}" for length, margin, match in table]
    title = f"Needle, {' → '.join(rows)}, mean over {len(needle['depths'])} depths with {needle['n']} samples each"
    return "\n".join([title, "", *lines])


def by_length_text(table: dict[str, Any]) -> str:
    lines = [["", "tokens read", *map(str, table["lengths"])], *([row, name, *cells] for row, name, cells in table["lines"])]
    return "\n".join([textwrap.fill(f"{table['title']}. {table['told']}", WIDTH), "", *_aligned(lines)])


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def retrieval_text(retrieval: dict[str, Any]) -> str:
    rows = retrieval_rows(retrieval)
    table = [["preferred", *map(str, retrieval["lengths"]), "exact match"]]
    for task in retrieval_tasks(retrieval):
        preferred = [[_percent(retrieval[task][row]["preferred"][i]) for row in rows] for i in range(len(retrieval["lengths"]))]
        exact = [_percent(retrieval[task][row]["exact_match"][0]) for row in rows]
        table.append([task.replace("_", " "), *(" → ".join(cells) for cells in preferred), " → ".join(exact)])
    title = f"Retrieval, {' → '.join(rows)}: % of {retrieval['n']} answers preferred to a wrong one (chance: 50), by length"
    return "\n".join([title, f"and written exactly at {retrieval['lengths'][0]} tokens", "", *_aligned(table)])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def task_text(name: str, section: dict[str, Any]) -> str:
    table = [["", *(figure.replace("_", " ") for figure in section["figures"])]]
    for row in rows_of(section):
        cells = [figure_of(section, row, figure) for figure in section["figures"]]
        table.append([row, *("-" if cell is None else f"{cell:.3f}" for cell in cells)])
    cut = f", {section['truncated']} of them cut to {section['length']} tokens" if section["truncated"] else ""
    return "\n".join([f"{name.replace('_', ' ').capitalize()}, {section['n']} samples{cut}", "", *_aligned(table)])


def harness_text(harness: dict[str, Any]) -> str:
    """A line for each task and figure; without the errors where they would make it too wide."""
    lines = _harness_lines(harness, lambda cell: f"{cell:.4g}")
    if width_of(lines) > WIDTH:
        lines = _harness_lines(harness, lambda cell: f"{cell.mean:.4g}")
    return "\n".join([f"lm-evaluation-harness {harness['harness']}, {harness['n']:,} documents", "", *lines])


def _harness_lines(harness: dict[str, Any], text: Callable[[Estimate], str]) -> list[str]:
    table = [["task", "figure", *harness_rows(harness)]]
    for task, figure, cells in harness_lines(harness):
        name = task if len(task) <= 30 else f"{task[:29]}…"
        table.append([name, figure or "-", *("-" if cell is None else text(cell) for cell in cells)])
    return _aligned(table)


def budget_text(budget: dict[str, Any]) -> str:
    lines = [f"{name:<20}{value}" for name, value in budget_facts(budget)]
    return "\n".join(["Budget", "", *lines])


def budget_facts(budget: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what the run cost, as the terminal and the page show it."""
    facts = [
        ("tokens", f"{budget['tokens']:,} in {budget['steps']:,} steps"),
        ("time", f"{duration(budget['seconds'])}, {budget['tokens_per_second']:,.0f} tokens/s"),
        ("peak memory", mebibytes(budget["peak_memory_bytes"])),
        ("trained parameters", f"{budget['trained_parameters']:,} of {budget['parameters']:,}"),
        ("optimizer state", mebibytes(budget["optimizer_state_bytes"])),
    ]
    if budget["base"]:
        base = budget["base"]
        facts.append(("base, shared", f"{base['tokens']:,} tokens in {base['steps']:,} steps, {duration(base['seconds'])}"))
    return facts
