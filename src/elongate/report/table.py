"""The table at the end of a run in the terminal: the text of each evaluation, the budget, and the verdict.

Imports no large packages, so that the table of a finished run is printed within a second.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from elongate.evaluation.presentation.numbers import duration, mebibytes
from elongate.evaluation.presentation.presentation import Presentation
from elongate.evaluation.presentation.terminal import WIDTH
from elongate.report.verdict import verdict


def terminal_table(results: dict[str, Any], evaluations: Sequence[Presentation]) -> str:
    """Plain text, at most 100 columns wide; evaluations that are not in the results are left out."""
    parts = [evaluation.text(results[evaluation.word]) for evaluation in evaluations if evaluation.word in results]
    if "budget" in results:
        parts.append(budget_text(results["budget"]))
    if sentences := verdict(results, evaluations):
        parts.append(textwrap.fill(" ".join(sentences), WIDTH))
    return "\n\n".join(filter(None, parts))


def budget_text(budget: dict[str, Any]) -> str:
    """The budget as plain text."""
    lines = [f"{name:<20}{value}" for name, value in budget_facts(budget)]
    return "\n".join(["Budget", "", *lines])


def budget_facts(budget: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each entry of the budget, as the terminal and the page show them."""
    # A CPU has no MFU, and results of earlier versions have none.
    mfu = "" if budget.get("mfu") is None else f", {budget['mfu']:.0%} of the GPU's peak (MFU)"
    facts = [
        ("tokens", f"{budget['tokens']:,} in {budget['steps']:,} steps"),
        ("time", f"{duration(budget['seconds'])}, {budget['tokens_per_second']:,.0f} tokens/s{mfu}"),
        ("peak memory", mebibytes(budget["peak_memory_bytes"])),
        ("trained parameters", f"{budget['trained_parameters']:,} of {budget['parameters']:,}"),
        ("optimizer state", mebibytes(budget["optimizer_state_bytes"])),
    ]
    if budget["base"]:
        base = budget["base"]
        facts.append(("base, shared", f"{base['tokens']:,} tokens in {base['steps']:,} steps, {duration(base['seconds'])}"))
    return facts
