"""A small run to show in a tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elongate.tracking.tracker import Tracking

CONFIGURATION = {"seed": 0, "model": {"dim": 128, "rope_theta": 10000.0}, "evaluation": ["curve"]}
SCALARS = {"finished": True, "strategy/context": "yarn", "strategy/factor": 4.0, "budget/tokens": 491520, "curve/after/0-256": 1.8}


def line(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {"step": step, "stage": "extend", "length": 1024, "loss": 4.0 / step, "lr": 1e-3}


def lines(first: int, last: int) -> list[dict[str, Any]]:
    return [line(step) for step in range(first, last + 1)]


def track(choice: Tracking, directory: Path, history: list[dict[str, Any]], rest: list[dict[str, Any]]) -> None:
    """Tracks a run from its start, which finds `history`, to its end."""
    directory.mkdir(exist_ok=True)
    tracker = choice.tracker(directory, CONFIGURATION)
    tracker.start(history)
    for new in rest:
        tracker.log(new)
    tracker.report(SCALARS, {"curve": png(directory)}, {"curve": table(directory)})
    tracker.finish(0)


def track_steps(choice: Tracking, directory: Path, history: list[dict[str, Any]], rest: list[dict[str, Any]]) -> None:
    """The same without results, which the stand-in for the W&B server does not accept."""
    directory.mkdir(exist_ok=True)
    tracker = choice.tracker(directory, CONFIGURATION)
    tracker.start(history)
    for new in rest:
        tracker.log(new)
    tracker.finish(0)


def png(directory: Path) -> Path:
    """A picture of 150 by 100 pixels."""
    from matplotlib.figure import Figure

    Figure(figsize=(3, 2), dpi=50).savefig(directory / "curve.png", format="png")
    return directory / "curve.png"


def table(directory: Path) -> Path:
    (directory / "curve.csv").write_text("row,start,loss\nbefore,0,1.8\nbefore,256,\n")
    return directory / "curve.csv"
