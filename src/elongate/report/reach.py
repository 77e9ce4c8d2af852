"""How far back a model uses what it reads, in tokens, and how well by the depth of the needle.

Two figures answer how far: the effective context, beyond which more text hardly improves the loss
(`context_gain`), and the length up to which answers are found (`retrieval`). Either is one of the measured
lengths. Its interval over several seeds reaches from the lowest end of theirs to the highest, so it contains
the variation of documents and of seeds, and is wider than either.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from elongate.evaluation.presentation import needle
from elongate.evaluation.presentation.by_length import effective_context
from elongate.evaluation.presentation.drawings import Reach
from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.retrieval import MEASURES, effective_lengths

# Key in the CSV to the name on the page.
REACHES = {"effective_context": "effective context"} | {
    f"retrieval_{measure}_effective_length": f"retrieval, {name}" for measure, name in MEASURES.items()
}


def reaches_of(results: dict[str, Any], row: str) -> dict[str, Reach]:
    """What was measured in the row, by key."""
    return effective_context(results.get("context_gain", {}), row) | effective_lengths(results.get("retrieval", {}), row)


def over_seeds(reaches: Sequence[Reach]) -> Reach:
    """The mean, from the lowest end to the highest."""
    return Reach(fmean(r.length for r in reaches), min(r.low for r in reaches), max(r.high for r in reaches))


def margins_by_depth(results: dict[str, Any], row: str) -> dict[float, Estimate]:
    """The needle's margin at the target length; empty if that was not measured, or could not be read."""
    return needle.margins_by_depth(results.get("needle", {}), row)
