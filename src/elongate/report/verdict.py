"""The verdict of a run: the sentences of all evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elongate.evaluation.presentation.presentation import Presentation


def verdict(results: dict[str, Any], evaluations: Sequence[Presentation]) -> list[str]:
    """Sentences computed from the figures; empty if nothing was measured that has any."""
    measured = (evaluation for evaluation in evaluations if evaluation.word in results)
    return [sentence for evaluation in measured for sentence in evaluation.sentences(results[evaluation.word])]


def failures(results: dict[str, Any], evaluations: Sequence[Presentation]) -> list[str]:
    """Why the command ends with exit code 1; empty if it does not."""
    measured = (evaluation for evaluation in evaluations if evaluation.word in results)
    return [reason for evaluation in measured if (reason := evaluation.failure(results[evaluation.word])) is not None]
