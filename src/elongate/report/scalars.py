"""The numbers of a run by path, for trackers: budget/tokens, curve/after/512-1024, needle/after/margin/1024, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elongate.evaluation.presentation.numbers import leaves
from elongate.evaluation.presentation.presentation import Presentation


def scalars(results: dict[str, Any], evaluations: Sequence[Presentation]) -> dict[str, Any]:
    """The scalars of each evaluation's section, and every single value of the other sections, by path."""
    by_word = {evaluation.word: evaluation for evaluation in evaluations}
    found: dict[str, Any] = {}
    for name, value in results.items():
        if name in by_word:
            found |= {f"{name}/{path}": scalar for path, scalar in by_word[name].scalars(value).items()}
        else:
            found |= leaves({name: value})
    return found
