"""Axes, lines and colours of all figures, through matplotlib's object-oriented API: no pyplot, no global state.

Figures are readable at a width of 640 pixels, and of 360. Colours are those of Okabe and Ito, which
colour-blind readers can distinguish; dashes and markers distinguish lines in print without colour.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elongate.atomic import written_aside
from elongate.evaluation.presentation.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
GREY, INK = "#6B6B6B", "#333333"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 5.0  # inches; text of 10 points is then 18 pixels tall on a page and 10 on a phone
DOTS_PER_INCH = 200


@dataclass(frozen=True)
class Pen:
    """The colour, dashes and marker of one line or point."""

    colour: str
    dashes: Any
    marker: str


ROW_PENS = {
    "before": Pen(GREY, (0, (5, 1.5)), "s"),
    "untuned": Pen(ORANGE, (0, (1.5, 1.2)), "^"),
    "after": Pen(BLUE, "solid", "o"),
}


def pen(index: int) -> Pen:
    """The pen of the strategy with that index in the comparison: the same in all figures of a page."""
    return Pen(COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)])


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of the usual width and the given height in inches, and its axes with horizontal grid lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    style(axes)
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def style(axes: Axes) -> None:
    """Sets colours and font sizes, and hides the top and right spines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=10)


def draw_line(axes: Axes, points: Mapping[float, Estimate], label: str, pen: Pen, **line: Any) -> None:
    """Draw a line and, if there are standard errors, a band of ±1 around it. Draws nothing without points."""
    if not points:
        return
    places = list(points)
    means = np.array([point.mean for point in points.values()])
    errors = np.array([point.standard_error or 0.0 for point in points.values()])
    axes.plot(places, means, color=pen.colour, linestyle=pen.dashes, label=label, **({"linewidth": 1.5} | line))
    if errors.any():
        axes.fill_between(places, means - errors, means + errors, color=pen.colour, alpha=0.18, linewidth=0)


def legend_below(figure: Figure, **entries: Any) -> None:
    """A legend below the axis, two entries per line, so that it never covers a line of the figure."""
    figure.legend(frameon=False, loc="outside lower center", ncols=2, handlelength=2.6, **entries)


def legend_height(entries: int) -> float:
    """The height of that legend in inches."""
    return 0.22 * -(-entries // 2)


def tokens(length: int) -> str:
    """256, 4096, then 16k, 128k: short enough for a tick."""
    return f"{length // 1024}k" if length >= 16384 and length % 1024 == 0 else str(length)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG. An existing file is replaced only if drawing succeeds."""
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
