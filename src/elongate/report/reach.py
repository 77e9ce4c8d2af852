"""How far back a model uses what it reads, in tokens, and how well by the depth at which it stands.

Two answers to how far: the effective context, beyond which more text tells next to nothing (`context_gain`), and the length up to which
what is asked for is still found (`retrieval`). A figure of either is one of the lengths that were measured, so its interval over
several seeds is drawn from the lowest end of theirs to the highest: it holds what documents do and what seeds do, and is the wider for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from elongate.report.estimate import Estimate
from elongate.report.sections import RETRIEVAL_MEASURES, known

# Key in the CSV to the name on the page.
REACHES = {"effective_context": "effective context"} | {
    f"retrieval_{measure}_effective_length": f"retrieval, {name}" for measure, name in RETRIEVAL_MEASURES.items()
}


@dataclass(frozen=True)
class Reach:
    """Tokens, from `low` to `high`; 0 where not even the shortest length is used."""

    length: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{self.length:,.0f}" if self.length else "none"

    @property
    def interval_text(self) -> str:
        """`256–1,024`, or nothing where it has no width."""
        return f"{self.low:,.0f}–{self.high:,.0f}" if self.low < self.high else ""


def reaches_of(results: dict[str, Any], row: str) -> dict[str, Reach]:
    """What was measured in the row, by key."""
    reaches = {}
    gain = results.get("context_gain", {}).get(row)
    if gain and gain["effective_context"] is not None:
        length = gain["effective_context"]
        reaches["effective_context"] = Reach(length, *(gain["effective_context_interval"] or (length, length)))
    found = _all_tasks(results.get("retrieval", {})).get(row, {"effective_length": {}})
    for measure, length in found["effective_length"].items():
        reaches[f"retrieval_{measure}_effective_length"] = Reach(length, length, length)
    return reaches


def _all_tasks(retrieval: dict[str, Any]) -> dict[str, Any]:
    """The rows of all tasks together, or of the only one; empty where they are not measured yet."""
    tasks = retrieval.get("tasks", [])
    return retrieval.get(tasks[0] if len(tasks) == 1 else "all", {})


def over_seeds(reaches: Sequence[Reach]) -> Reach:
    """The mean, from the lowest end to the highest."""
    return Reach(fmean(r.length for r in reaches), min(r.low for r in reaches), max(r.high for r in reaches))


def margins_by_depth(results: dict[str, Any], row: str) -> dict[float, Estimate]:
    """The needle's margin at the target length; empty where that was not asked, or could not be read."""
    needle = results.get("needle", {})
    if row not in needle or needle["target_length"] not in needle["lengths"]:
        return {}
    at_target = needle["lengths"].index(needle["target_length"])
    cells = zip(needle["depths"], needle[row]["margin"][at_target], needle[row]["margin_standard_error"][at_target], strict=True)
    return {depth: Estimate(margin, known(error)) for depth, margin, error in cells if known(margin) is not None}
