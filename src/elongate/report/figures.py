"""Loss by position of a run and of a sweep, heat maps of what a run finds, and its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elongate.report.canvas import (
    COLOURS,
    DOTS_PER_INCH,
    GREY,
    INK,
    ROW_PENS,
    WIDTH,
    Pen,
    draw_line,
    legend_below,
    legend_height,
    new_figure,
    pen,
    save,
    style,
    tokens,
)
from elongate.report.estimate import Estimate
from elongate.report.sections import Bin, losses_of, retrieval_rows, retrieval_tasks, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_curve(results: dict[str, Any], path: Path) -> None:
    """Loss by position before and after the extension, with bands of ±1 standard error."""
    save(curve_figure(results["curve"]), path)


def draw_needle(results: dict[str, Any], path: Path) -> None:
    """Heat maps of the needle's margin, depth by length, with the exact match written in the cells."""
    save(needle_figure(results["needle"]), path)


def draw_retrieval(results: dict[str, Any], path: Path) -> None:
    """Heat maps of the share of answers that are preferred, task by length, with the exact match written in the cells."""
    save(retrieval_figure(results["retrieval"]), path)


def curve_figure(curve: dict[str, Any]) -> Figure:
    figure, axes = new_figure(3.6 + legend_height(3))
    for row in rows_of(curve["fine"]):
        draw_line(axes, by_middle(losses_of(curve["fine"], row)), row, ROW_PENS[row])
    finish_position_axes(axes, curve["fine"]["edges"], curve["original_length"], curve["target_length"])
    legend_below(figure)
    return figure


def strategies_figure(
    curves: Mapping[str, Mapping[Bin, Estimate]],
    before: Mapping[Bin, Estimate],
    original_length: int,
    target_length: int,
) -> Figure:
    """One curve a strategy, after the extension, with bands over seeds; `before` (may be empty) is drawn in grey."""
    figure, axes = new_figure(3.6 + legend_height(len(curves) + 1))
    draw_line(axes, by_middle(before), "before the extension", Pen(GREY, "dotted", ""))
    for index, (label, losses) in enumerate(curves.items()):
        draw_line(axes, by_middle(losses), label, pen(index))
    edges = sorted({edge for losses in curves.values() for bin_ in losses for edge in bin_})
    finish_position_axes(axes, edges, original_length, target_length)
    legend_below(figure)
    return figure


def by_middle(losses: Mapping[Bin, Estimate]) -> dict[float, Estimate]:
    """By the middle of the bin."""
    return {(start + end) / 2: loss for (start, end), loss in losses.items()}


def needle_figure(needle: dict[str, Any]) -> Figure:
    """The rows side by side on one diverging scale that is centred at 0."""
    from matplotlib.figure import Figure

    rows = rows_of(needle)
    margins = {row: np.array(needle[row]["margin"], dtype=float).T for row in rows}
    measured = np.concatenate([margin[~np.isnan(margin)] for margin in margins.values()])
    limit = float(np.abs(measured).max(initial=0)) or 1.0
    height = 1.7 + 0.36 * len(needle["depths"])
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, row in zip(panels, rows, strict=True):
        image = axes.imshow(margins[row], cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        write_matches(axes, margins[row] / limit, np.array(needle[row]["exact_match"], dtype=float).T)
        axes.set_title(row, color=INK, fontsize=11)
        axes.set_xticks(range(len(needle["lengths"])), [tokens(length) for length in needle["lengths"]], rotation=90)
        mark_lengths(axes, needle)
        axes.set_yticks(range(len(needle["depths"])), [f"{depth:.0%}" for depth in needle["depths"]])
        style(axes)
    panels[0].set_ylabel("depth of the needle", color=INK)
    bar = figure.colorbar(image, ax=list(panels), label="margin in nats", fraction=0.05)
    bar.outline.set_visible(False)
    explain_map(figure, "margin over a wrong answer")
    return figure


def retrieval_figure(retrieval: dict[str, Any]) -> Figure:
    """The rows side by side on one diverging scale that is centred at chance."""
    from matplotlib.figure import Figure

    rows, tasks, lengths = retrieval_rows(retrieval), retrieval_tasks(retrieval), retrieval["lengths"]
    figure = Figure(figsize=(WIDTH, 1.7 + 0.3 * len(tasks)), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, row in zip(panels, rows, strict=True):
        preferred, matches = (np.array([retrieval[t][row][m] for t in tasks], dtype=float) for m in ("preferred", "exact_match"))
        image = axes.imshow(preferred, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
        write_matches(axes, 2 * preferred - 1, matches)
        axes.set_title(row, color=INK, fontsize=11)
        mark_lengths(axes, retrieval)
        axes.set_xticks(range(len(lengths)), [tokens(length) for length in lengths], rotation=90)
        axes.set_yticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])
        style(axes)
    bar = figure.colorbar(image, ax=list(panels), label="right answer preferred", fraction=0.05)
    bar.outline.set_visible(False)
    explain_map(figure, "share of answers preferred to a wrong one")
    return figure


def explain_map(figure: Figure, colour: str) -> None:
    told = f"length in tokens\ncolour: {colour}; number: exact match in %\nlines: original (dashed) and target length"
    figure.supxlabel(told, fontsize=9, color=INK)


def mark_lengths(axes: Axes, section: dict[str, Any]) -> None:
    """Lines behind the last lengths that do not exceed the original length and the target."""
    for length, dashes in ((section["original_length"], (0, (3, 2))), (section["target_length"], "solid")):
        axes.axvline(sum(other <= length for other in section["lengths"]) - 0.5, color="black", linestyle=dashes)


def write_matches(axes: Axes, intensity: np.ndarray, matches: np.ndarray) -> None:
    for (depth, length), match in np.ndenumerate(matches):
        if np.isnan(match):  # could not be read
            axes.text(length, depth, "–", ha="center", va="center", fontsize=8, color=INK)
            continue
        colour = "white" if abs(intensity[depth, length]) > 0.6 else "black"
        axes.text(length, depth, f"{100 * match:.0f}", ha="center", va="center", fontsize=8, color=colour)


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss against tokens, a colour for each stage."""
    figure, axes = new_figure(2.8)
    stages = groupby(metrics, lambda line: (line["stage"], line["length"]))
    for index, ((stage, length), group) in enumerate(stages):
        lines = list(group)
        axes.plot(
            [line["tokens"] for line in lines],
            [line["loss"] for line in lines],
            color=COLOURS[index % len(COLOURS)],
            linewidth=1.2,
            label=f"{stage}, length {length}",
        )
    axes.set_xlabel("tokens", color=INK)
    axes.set_ylabel("training loss in nats", color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: amount(value))
    axes.legend(frameon=False)
    return figure


def amount(count: float) -> str:
    if count >= 1e6:
        return f"{count / 1e6:g}M"
    return f"{count / 1e3:g}k" if count >= 1e3 else f"{count:g}"


def finish_position_axes(axes: Axes, edges: Sequence[int], original_length: int, target_length: int) -> None:
    """A log2 axis with a tick at each power of two, and lines at the lengths that the reader looks for."""
    first, last = edges[1], edges[-1]
    axes.set_xscale("log", base=2)
    axes.set_xlim(first / 2, last)
    powers = [2**exponent for exponent in range(1, 40) if first / 2 <= 2**exponent <= last]
    axes.set_xticks(powers[:: -(-len(powers) // 9)], labels=[tokens(power) for power in powers[:: -(-len(powers) // 9)]])
    axes.minorticks_off()
    axes.set_xlabel("position in tokens", color=INK)
    axes.set_ylabel("loss in nats", color=INK)
    # The names lean away from each other, so that they stay apart however close the lengths are.
    marks = [(original_length, "original length", "right")]
    if target_length > original_length:
        marks.append((target_length, "target length", "left"))
    for length, name, side in marks:
        axes.axvline(length, color=INK, linewidth=0.9)
        axes.annotate(
            f"{name} {tokens(length)}",
            (length, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha=side,
            color=INK,
            fontsize=9,
        )
