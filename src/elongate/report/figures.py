"""Draws what evaluations show, the curves of a sweep, and the training of a run, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from elongate.evaluation.evaluation import FOLLOWED
from elongate.evaluation.presentation.drawings import Bin, DepthLines, Drawing, HeatMap, PositionCurves, ReachBars
from elongate.evaluation.presentation.estimate import Estimate
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
    style,
    tokens,
)
from elongate.report.reach_figures import depth_figure, reach_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@singledispatch
def draw(drawing: Drawing) -> Figure:
    """The figure of a drawing of any kind."""
    raise AssertionError(f"no figure for a {type(drawing).__name__}")


@draw.register(PositionCurves)
def _(drawing: PositionCurves) -> Figure:
    figure, axes = new_figure(3.6 + legend_height(3))
    for row, losses in drawing.rows.items():
        draw_line(axes, by_middle(losses), row, ROW_PENS[row])
    finish_position_axes(axes, drawing.edges, drawing.original_length, drawing.target_length)
    legend_below(figure)
    return figure


@draw.register(HeatMap)
def _(drawing: HeatMap) -> Figure:
    from matplotlib.figure import Figure

    height = 1.7 + drawing.line_height * len(drawing.places)
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(drawing.panels), sharey=True, squeeze=False)[0]
    for axes, (row, cells) in zip(panels, drawing.panels.items(), strict=True):
        shares, matches = (np.array(cell, dtype=float) for cell in cells)
        image = axes.imshow(shares, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
        write_matches(axes, 2 * shares - 1, matches)
        axes.set_title(row, color=INK, fontsize=11)
        mark_lengths(axes, drawing)
        axes.set_xticks(range(len(drawing.lengths)), [tokens(length) for length in drawing.lengths], rotation=90)
        axes.set_yticks(range(len(drawing.places)), drawing.places)
        style(axes)
    panels[0].set_ylabel(drawing.places_title, color=INK)
    bar = figure.colorbar(image, ax=list(panels), label=drawing.colour_title, fraction=0.05)
    bar.outline.set_visible(False)
    marks = "number: exact match in %; lines: original (dashed) and target length"
    figure.supxlabel(f"length in tokens\ncolour: {drawing.colour_meaning}\n{marks}", fontsize=9, color=INK)
    return figure


@draw.register(DepthLines)
def _(drawing: DepthLines) -> Figure:
    return depth_figure(drawing.rows, ROW_PENS)


@draw.register(ReachBars)
def _(drawing: ReachBars) -> Figure:
    return reach_figure(drawing.rows, drawing.original_length, drawing.target_length)


def strategies_figure(
    curves: Mapping[str, Mapping[Bin, Estimate]],
    before: Mapping[Bin, Estimate],
    original_length: int,
    target_length: int,
) -> Figure:
    """One curve for each strategy after the extension, with bands over seeds; `before` (may be empty) is grey."""
    figure, axes = new_figure(3.6 + legend_height(len(curves) + 1))
    draw_line(axes, by_middle(before), "before the extension", Pen(GREY, "dotted", ""))
    for index, (label, losses) in enumerate(curves.items()):
        draw_line(axes, by_middle(losses), label, pen(index))
    edges = sorted({edge for losses in curves.values() for bin_ in losses for edge in bin_})
    finish_position_axes(axes, edges, original_length, target_length)
    legend_below(figure)
    return figure


def by_middle(losses: Mapping[Bin, Estimate]) -> dict[float, Estimate]:
    """Losses by the middle of their bin."""
    return {(start + end) / 2: loss for (start, end), loss in losses.items()}


def mark_lengths(axes: Axes, drawing: HeatMap) -> None:
    """Lines behind the last lengths that do not exceed the original length and the target."""
    for length, dashes in ((drawing.original_length, (0, (3, 2))), (drawing.target_length, "solid")):
        axes.axvline(sum(other <= length for other in drawing.lengths) - 0.5, color="black", linestyle=dashes)


def write_matches(axes: Axes, intensity: np.ndarray, matches: np.ndarray) -> None:
    """Percentages in the cells, white on the darkest colours; a dash where a text could not be read."""
    for (place, length), match in np.ndenumerate(matches):
        if np.isnan(match):
            axes.text(length, place, "–", ha="center", va="center", fontsize=8, color=INK)
            continue
        colour = "white" if abs(intensity[place, length]) > 0.6 else "black"
        axes.text(length, place, f"{100 * match:.0f}", ha="center", va="center", fontsize=8, color=colour)


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """The training loss by tokens, a colour for each stage, and the figures of held-out documents during the training, in ink."""
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
    for key in dict.fromkeys(key for line in metrics for key in line if key.startswith(FOLLOWED)):
        followed = [line for line in metrics if key in line]
        tokens_of, figures = [line["tokens"] for line in followed], [line[key] for line in followed]
        axes.plot(tokens_of, figures, color=INK, linewidth=1.2, marker="o", markersize=4, label=f"{key.removeprefix(FOLLOWED)}, held out")
    axes.set_xlabel("tokens", color=INK)
    axes.set_ylabel("training loss in nats", color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: amount(value))
    axes.legend(frameon=False)
    return figure


def amount(count: float) -> str:
    """A number of tokens as `500`, `12k` or `1.5M`."""
    if count >= 1e6:
        return f"{count / 1e6:g}M"
    return f"{count / 1e3:g}k" if count >= 1e3 else f"{count:g}"


def finish_position_axes(axes: Axes, edges: Sequence[int], original_length: int, target_length: int) -> None:
    """A log2 axis with a tick at each power of two, and lines at the original and the target length."""
    first, last = edges[1], edges[-1]
    axes.set_xscale("log", base=2)
    axes.set_xlim(first / 2, last)
    powers = [2**exponent for exponent in range(1, 40) if first / 2 <= 2**exponent <= last]
    axes.set_xticks(powers[:: -(-len(powers) // 9)], labels=[tokens(power) for power in powers[:: -(-len(powers) // 9)]])
    axes.minorticks_off()
    axes.set_xlabel("position in tokens", color=INK)
    axes.set_ylabel("loss in nats", color=INK)
    # The names extend in opposite directions, so that they never overlap.
    marks = [(original_length, "original length", "right")]
    if target_length > original_length:
        marks.append((target_length, "target length", "left"))
    for length, name, side in marks:
        if length > last:  # text far outside of the axes leaves them no room
            continue
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
