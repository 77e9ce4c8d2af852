"""The numbers of a run by path, for trackers: budget/tokens, curve/after/512-1024, needle/after/margin/1024, …"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from elongate.errors import ConfigError
from elongate.evaluation.presentation.numbers import leaves
from elongate.evaluation.presentation.presentation import Presentation


def metric(results: dict[str, Any], evaluations: Sequence[Presentation], path: str) -> float:
    """The scalar of this path. Raises `ConfigError` if the run has none."""
    found = {name: value for name, value in scalars(results, evaluations).items() if isinstance(value, int | float)}
    if path not in found:
        near = get_close_matches(path, found, 3, 0) or ["nothing"]
        raise ConfigError("sweep.metric", path, "is no figure of this run", f"use {{key}}={near[0]}; near are also {', '.join(near[1:])}")
    return float(found[path])


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
