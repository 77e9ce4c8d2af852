"""What the pages of all benchmarks share: which rows are refused, names, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers import NAMES, OURS

# Okabe and Ito (2008): distinguishable with every kind of colour vision; markers distinguish the lines in grey.
COLOURS = ("#000000", "#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")


def difference(row: Any, first: Any, loss_tolerance: float, norm_tolerance: float) -> str | None:
    """Why the row is not the same computation as the first one: another loss (in nats) or gradient norm (relative); None if it is."""
    if not abs(row.loss - first.loss) <= loss_tolerance:
        return f"refused: its loss is {row.loss:.6f}, that of {first.peer} {first.loss:.6f}"
    if not abs(row.gradient_norm / first.gradient_norm - 1) <= norm_tolerance:
        return f"refused: its gradient norm is {row.gradient_norm:.6f}, that of {first.peer} {first.gradient_norm:.6f}"
    return None


def name(peer: str) -> str:
    """The name of a program on the page."""
    return NAMES.get(peer) or peer.replace(OURS, "Elongate, ").replace(",", ", ").replace("  ", " ")


def in_order(rows: Sequence[Any]) -> list[str]:
    """The names of all programs: others first, then ours in the order of the rows."""
    every = dict.fromkeys(row.peer for row in rows)
    return [*(peer for peer in NAMES if peer in every), *(peer for peer in every if peer not in NAMES)]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column has names and whose other columns have numbers."""
    rule = "|---|" + "---:|" * len(head)
    return [f"| | {' | '.join(head)} |", rule, *(f"| {' | '.join(cells)} |" for cells in lines)]


def plot(panels: Mapping[str, Mapping[str, Mapping[int, float]]], file: Path) -> None:
    """Plots panels side by side on logarithmic axes. `panels`: title → program → length → figure."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatter

    everyone = list(dict.fromkeys(peer for lines in panels.values() for peer in lines))
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.6), squeeze=False, layout="constrained")
    lengths = sorted({length for lines in panels.values() for points in lines.values() for length in points})
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for peer, points in lines.items():
            if points:
                style, i = "--" if peer in NAMES else "-", everyone.index(peer)
                colour, marker = COLOURS[i % len(COLOURS)], "os^DvPX"[i % 7]
                axis.plot(points.keys(), points.values(), style, color=colour, marker=marker, label=name(peer))
        axis.set(xscale="log", yscale="log", xlabel="Length, tokens", title=title)
        axis.set_xticks(lengths, [f"{length // 1024}k" if length % 1024 == 0 else str(length) for length in lengths])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(LogFormatter())
        axis.grid(which="both", alpha=0.25)
    shown = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2)
    figure.savefig(file, dpi=150)
    plt.close(figure)
