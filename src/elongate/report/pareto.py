"""Quality against cost: the Pareto frontier of the deciding figure, smaller being better, and seconds of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.canvas import INK, Pen, legend_below, legend_height, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Mapping[str, tuple[Estimate, Estimate]]  # strategy to seconds and loss, or another figure that is better if smaller

SAME_COST_RATIO = 0.05  # between lowest and highest cost; the same program on the same machine varies by as much


def frontier(points: Points) -> list[str]:
    """The strategies that no other one dominates, cheapest first.

    A strategy dominates another if it is no worse in cost and loss, and better in at least one of them.
    """
    best, found = float("inf"), []
    for name, (_, loss) in sorted(points.items(), key=lambda item: (item[1][0].mean, item[1][1].mean)):
        if loss.mean < best:
            best = loss.mean
            found.append(name)
    return found


def sentences(points: Points, figure: str = "loss", unit: str = "nats") -> str:
    """The conclusion of the figure in one or two sentences. `figure`: what the points have besides seconds."""
    by_cost, by_loss = (sorted(points, key=lambda name: points[name][axis].mean) for axis in (0, 1))
    lowest, highest = points[by_cost[0]][0], points[by_cost[-1]][0]
    apart, difference = highest.mean / lowest.mean - 1, highest - lowest
    spread = f"from {lowest.mean:,.1f} to {highest.mean:,.1f} seconds, {apart:.1%} apart"
    if apart <= SAME_COST_RATIO or (difference.standard_error and not difference.positive):
        why = "are practically equal" if apart <= SAME_COST_RATIO else "cannot be distinguished over the seeds"
        return f"The costs of all strategies {why} ({spread}), so only the {figure} decides: {by_loss[0]} has the lowest."
    names = frontier(points)
    if len(names) == 1:
        return f"The costs range {spread}. {names[0]} is both the cheapest and the best, so there is no trade-off."
    *steps, last = (f"{name} ({points[name][0].mean:,.1f} s, {points[name][1].mean:.3f} {unit}".rstrip() + ")" for name in names)
    return f"The costs range {spread}. No strategy is both cheaper and better than {', '.join(steps)} or {last}."


def pareto_figure(points: Points, pens: Mapping[str, Pen], figure_name: str) -> Figure:
    """One point per strategy with bars of ±1 standard error. Points on the frontier are named and joined by a line."""
    figure, axes = new_figure(3.4 + legend_height(len(points)))
    best = frontier(points)
    axes.plot([points[name][0].mean for name in best], [points[name][1].mean for name in best], color=INK, linewidth=0.9)
    for name, (cost, loss) in points.items():
        pen, errors = pens[name], (cost.standard_error or 0.0, loss.standard_error or 0.0)
        axes.errorbar(
            cost.mean, loss.mean, *errors[::-1], color=pen.colour, marker=pen.marker, markersize=7, capsize=3, linestyle="", label=name
        )
    axes.margins(x=0.15, y=0.15)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left - 0.4 * (right - left), right)
    axes.set_ylim(low - 0.06 * (2 + len(best)) * (high - low), high)  # room for the names
    axes.set_xlabel("seconds of training", color=INK)
    axes.set_ylabel(figure_name, color=INK)
    legend_below(figure)
    name_points(figure, axes, {name: points[name] for name in best})
    return figure


def name_points(figure: Figure, axes: Axes, best: Points) -> None:
    """Writes names to the lower left of the points, where the frontier leaves room; each below the one before if they would overlap."""
    figure.draw_without_rendering()
    height, below = 13 * figure.dpi / 72, float("inf")
    for name, (cost, loss) in best.items():
        _, y = axes.transData.transform((cost.mean, loss.mean))
        top = min(y - height / 3, below)
        below = top - height
        place = (-8, (top - y) * 72 / figure.dpi)
        axes.annotate(name, (cost.mean, loss.mean), xytext=place, textcoords="offset points", ha="right", va="top", color=INK)
