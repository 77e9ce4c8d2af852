"""Covering arrays: of a full grid, the cases that meet every pair of values run always, the rest under the marker `grid`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def pairwise(*factors: Iterable[Any]) -> list[Any]:
    """All combinations as parameters of a test; those that add no new pair of values are marked `grid`.

    Greedy: the next case is always the one with the most pairs that no earlier case had. Deterministic.
    """
    grid = list(itertools.product(*(list(factor) for factor in factors)))
    chosen = _covering(grid)
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.grid) for case in grid]


def _covering(grid: Sequence[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    missing = {pair for case in grid for pair in _pairs(case)}
    chosen: set[tuple[Any, ...]] = set()
    while missing:
        best = max(grid, key=lambda case: len(missing.intersection(_pairs(case))))
        chosen.add(best)
        missing -= set(_pairs(best))
    return chosen


def _pairs(case: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [(i, case[i], j, case[j]) for i, j in itertools.combinations(range(len(case)), 2)]
