"""How far back a text is used, as bars with intervals, and the lost-in-the-middle curve (Liu et al. 2023, arXiv:2307.03172)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from elongate.evaluation.presentation.drawings import Reach
from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    Pen,
    draw_line,
    legend_below,
    legend_height,
    new_figure,
    tokens,
)
from elongate.report.reach import REACHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR_COLOURS = dict(zip(REACHES, (BLUE, ORANGE, GREEN, PURPLE), strict=True))
SMALLEST_SCALE = 0.1  # nats; smaller margins are noise, so the axis always reaches this far
THICKNESS = 0.23  # inches of a bar, and of the name above its group


def reach_figure(reaches: Mapping[str, Mapping[str, Reach]], original_length: int, target_length: int) -> Figure:
    """Horizontal bars: one group for each name (of a strategy or row), and in it one bar for each kind of reach."""
    from matplotlib.patches import Patch

    kinds = [kind for kind in REACHES if any(kind in of for of in reaches.values())]
    pitch = len(kinds) + 1.4
    figure, axes = new_figure(0.9 + THICKNESS * pitch * len(reaches) + legend_height(len(kinds) + 2))
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    lines = [
        axes.axvline(length, color=INK, linestyle=dashes, linewidth=0.9, zorder=0.9, label=f"{name} length {tokens(length)}")
        for length, name, dashes in ((original_length, "original", (0, (3, 2))), (target_length, "target", "solid"))
    ]
    for group, (name, of) in enumerate(reaches.items()):
        # The name is above the bars, so a long one does not make them shorter.
        axes.annotate(name, (0, group * pitch - 0.95), xytext=(2, 0), textcoords="offset points", va="center", color=INK)
        for number, kind in enumerate(kinds):
            if kind in of:
                draw_reach(axes, group * pitch + number, of[kind], BAR_COLOURS[kind])
    axes.set_yticks([])
    axes.set_ylim(pitch * len(reaches) - 1.4, -1.6)
    axes.set_xlim(0, 1.02 * max([target_length, *(reach.high for of in reaches.values() for reach in of.values())]))
    axes.set_xlabel("tokens back", color=INK)
    legend_below(figure, handles=[*lines, *(Patch(color=BAR_COLOURS[kind], label=REACHES[kind]) for kind in kinds)])
    return figure


def draw_reach(axes: Axes, y: float, reach: Reach, colour: str) -> None:
    """Draws a bar, a whisker if the interval has a width, and the figures in the right margin, which bars do not reach."""
    axes.barh(y, reach.length, height=0.84, color=colour)
    if reach.interval_text:
        axes.errorbar((reach.low + reach.high) / 2, y, xerr=(reach.high - reach.low) / 2, color=INK, capsize=3, linewidth=1.2)
    text = f"{reach.text} ({reach.interval_text})" if reach.interval_text else reach.text
    axes.annotate(text, (1, y), xycoords=axes.get_yaxis_transform(), xytext=(6, 0), textcoords="offset points", va="center", color=INK)


def depth_figure(margins: Mapping[str, Mapping[float, Estimate]], pens: Mapping[str, Pen]) -> Figure:
    """The needle's margin by depth, a line for each name, with bands of ±1 standard error."""
    figure, axes = new_figure(3.2 + legend_height(len(margins)))
    axes.axhline(0, color=INK, linewidth=0.9)
    for name, by_depth in margins.items():
        draw_line(axes, by_depth, name, pens[name], marker=pens[name].marker, markersize=5)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -SMALLEST_SCALE), max(high, SMALLEST_SCALE))
    axes.xaxis.set_major_formatter(lambda depth, _: f"{depth:.0%}")
    axes.set_xticks(sorted({depth for by_depth in margins.values() for depth in by_depth}))
    axes.set_xlabel("depth of the needle (0% the beginning of the text)", color=INK)
    axes.set_ylabel("margin in nats", color=INK)
    legend_below(figure)
    return figure
