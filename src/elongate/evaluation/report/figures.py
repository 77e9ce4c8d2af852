"""The figures of a run and of a sweep, through matplotlib's object-oriented API: no pyplot, no global state.

Drawn to be read at 640 pixels of width, and at 360. Colours are those of Okabe and Ito, told apart by all eyes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elongate.evaluation.report.estimate import Estimate
from elongate.evaluation.report.sections import Bin, losses_of, retrieval_rows, retrieval_tasks, rows_of
from elongate.files import written_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
GREY = "#6B6B6B"
ROW_COLOURS = {"before": GREY, "untuned": ORANGE, "after": BLUE}
ROW_DASHES = {"before": (0, (5, 1.5)), "untuned": (0, (1.5, 1.2)), "after": "solid"}
SERIES_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
SERIES_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
INK = "#333333"
WIDTH = 5.6  # inches; text of 10 points is then 16 pixels tall on a page and 9 on a phone
DOTS_PER_INCH = 200


def draw_curve(results: dict[str, Any], path: Path) -> None:
    """Loss by position before and after the extension, with bands of ±1 standard error."""
    save(curve_figure(results["curve"]), path)


def draw_needle(results: dict[str, Any], path: Path) -> None:
    """Heat maps of the needle's margin, depth by length, with the exact match written in the cells."""
    save(needle_figure(results["needle"]), path)


def draw_retrieval(results: dict[str, Any], path: Path) -> None:
    """Heat maps of the share of answers that are preferred, task by length, with the exact match written in the cells."""
    save(retrieval_figure(results["retrieval"]), path)


def save(figure: Figure, path: Path) -> None:
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def curve_figure(curve: dict[str, Any]) -> Figure:
    figure, axes = new_figure(3.6)
    for row in rows_of(curve["fine"]):
        draw_losses(axes, losses_of(curve["fine"], row), row, ROW_COLOURS[row], ROW_DASHES[row])
    finish_position_axes(axes, curve["fine"]["edges"], curve["original_length"], curve["target_length"])
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.0), handlelength=2.6)
    return figure


def strategies_figure(
    curves: Mapping[str, Mapping[Bin, Estimate]],
    before: Mapping[Bin, Estimate],
    original_length: int,
    target_length: int,
) -> Figure:
    """One curve a strategy, after the extension, with bands over seeds; `before` (may be empty) is drawn in grey."""
    lines = (len(curves) + 2) // 2
    figure, axes = new_figure(3.6 + 0.22 * lines)
    draw_losses(axes, before, "before the extension", GREY, "dotted")
    for index, (label, losses) in enumerate(curves.items()):
        dashes = SERIES_DASHES[index // len(SERIES_COLOURS) % len(SERIES_DASHES)]
        draw_losses(axes, losses, label, SERIES_COLOURS[index % len(SERIES_COLOURS)], dashes)
    edges = sorted({edge for losses in curves.values() for bin_ in losses for edge in bin_})
    finish_position_axes(axes, edges, original_length, target_length)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, handlelength=2.6)
    return figure


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
        axes.set_xticks(range(len(needle["lengths"])), [tokens(length) for length in needle["lengths"]], rotation=45)
        mark_lengths(axes, needle)
        axes.set_yticks(range(len(needle["depths"])), [f"{depth:.0%}" for depth in needle["depths"]])
        axes.set_xlabel("length in tokens", color=INK)
        style(axes)
    panels[0].set_ylabel("depth of the needle", color=INK)
    bar = figure.colorbar(image, ax=list(panels), label="margin in nats", fraction=0.05)
    bar.outline.set_visible(False)
    legend = "colour: margin over a wrong answer; number: exact match\nlines: original (dashed) and target length"
    figure.supxlabel(legend, fontsize=9, color=INK)
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
        axes.set_xticks(range(len(lengths)), [tokens(length) for length in lengths], rotation=45)
        axes.set_yticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])
        axes.set_xlabel("length in tokens", color=INK)
        style(axes)
    bar = figure.colorbar(image, ax=list(panels), label="right answer preferred", fraction=0.05)
    bar.outline.set_visible(False)
    legend = "colour: share of answers preferred to a wrong one; number: exact match\nlines: original (dashed) and target length"
    figure.supxlabel(legend, fontsize=9, color=INK)
    return figure


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
        axes.text(length, depth, f"{match:.0%}", ha="center", va="center", fontsize=8, color=colour)


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss against tokens, a colour for each stage."""
    figure, axes = new_figure(2.8)
    stages = groupby(metrics, lambda line: (line["stage"], line["length"]))
    for index, ((stage, length), group) in enumerate(stages):
        lines = list(group)
        axes.plot(
            [line["tokens"] for line in lines],
            [line["loss"] for line in lines],
            color=SERIES_COLOURS[index % len(SERIES_COLOURS)],
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


def new_figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    style(axes)
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=10)


def draw_losses(axes: Axes, losses: Mapping[Bin, Estimate], label: str, colour: str, dashes: Any) -> None:
    """A line through the middles of the bins and, where there are standard errors, a band around it."""
    if not losses:
        return
    middles = [(start + end) / 2 for start, end in losses]
    means = np.array([loss.mean for loss in losses.values()])
    errors = np.array([loss.standard_error or 0.0 for loss in losses.values()])
    axes.plot(middles, means, color=colour, linestyle=dashes, linewidth=1.5, label=label)
    if errors.any():
        axes.fill_between(middles, means - errors, means + errors, color=colour, alpha=0.18, linewidth=0)


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


def tokens(length: int) -> str:
    """256, 4096, then 16k, 128k: as short as a tick needs."""
    return f"{length // 1024}k" if length >= 16384 and length % 1024 == 0 else str(length)
