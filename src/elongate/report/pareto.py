"""Quality against cost: which strategies nothing else beats in both loss and seconds of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.canvas import INK, Pen, legend_below, legend_height, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Mapping[str, tuple[Estimate, Estimate]]  # strategy to seconds and loss

SAME_COST_RATIO = 0.05  # between the cheapest and the dearest: the same program on the same machine varies by as much


def frontier(points: Points) -> list[str]:
    """Those of which no other is both as cheap and as good and in one of the two better, cheapest first."""
    best, found = float("inf"), []
    for name, (_, loss) in sorted(points.items(), key=lambda item: (item[1][0].mean, item[1][1].mean)):
        if loss.mean < best:
            best = loss.mean
            found.append(name)
    return found


def told(points: Points) -> str:
    """What the figure shows, in a sentence or two."""
    by_cost, by_loss = (sorted(points, key=lambda name: points[name][axis].mean) for axis in (0, 1))
    cheapest, dearest = points[by_cost[0]][0], points[by_cost[-1]][0]
    apart, difference = dearest.mean / cheapest.mean - 1, dearest - cheapest
    spread = f"from {cheapest.mean:,.1f} to {dearest.mean:,.1f} seconds, {apart:.1%} apart"
    if apart <= SAME_COST_RATIO or (difference.standard_error and not difference.positive):
        why = "practically the same" if apart <= SAME_COST_RATIO else "the same as far as the seeds can tell"
        return f"All strategies cost {why} ({spread}), so the loss alone decides: the lowest is that of {by_loss[0]}."
    names = frontier(points)
    if len(names) == 1:
        return f"The costs go {spread}. {names[0]} is both the cheapest and the best: there is nothing to trade."
    *steps, last = (f"{name} ({points[name][0].mean:,.1f} s, {points[name][1].mean:.3f} nats)" for name in names)
    return f"The costs go {spread}. Nothing is both cheaper and better than {', '.join(steps)} or {last}."


def pareto_figure(points: Points, pens: Mapping[str, Pen], loss_name: str) -> Figure:
    """A point a strategy with bars of ±1 standard error; those that nothing beats joined by a line and named."""
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
    axes.set_ylabel(loss_name, color=INK)
    legend_below(figure)
    name_points(figure, axes, {name: points[name] for name in best})
    return figure


def name_points(figure: Figure, axes: Axes, best: Points) -> None:
    """Names to the lower left, where by definition no point lies; each below the one before where they would touch."""
    figure.draw_without_rendering()
    height, below = 13 * figure.dpi / 72, float("inf")
    for name, (cost, loss) in best.items():
        _, y = axes.transData.transform((cost.mean, loss.mean))
        top = min(y - height / 3, below)
        below = top - height
        place = (-8, (top - y) * 72 / figure.dpi)
        axes.annotate(name, (cost.mean, loss.mean), xytext=place, textcoords="offset points", ha="right", va="top", color=INK)
