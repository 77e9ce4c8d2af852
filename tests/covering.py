"""Covering arrays for parametrized tests: a few rows of a grid run by default, the others are marked `grid`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any

import pytest

Row = tuple[int, ...]  # an index into each factor


def _any_row(*values: Any) -> bool:
    return True


def all_pairs(*factors: Iterable[Any], allowed: Callable[..., bool] = _any_row) -> list[Any]:
    """The rows of the grid. Its default rows contain every pair of values of two factors."""
    return _parameters(factors, allowed, strength=2)


def all_values(*factors: Iterable[Any], allowed: Callable[..., bool] = _any_row) -> list[Any]:
    """The rows of the grid. Its default rows contain every value of every factor."""
    return _parameters(factors, allowed, strength=1)


def _parameters(factors: Iterable[Iterable[Any]], allowed: Callable[..., bool], strength: int) -> list[Any]:
    # Values may be unhashable, so rows are counted by their indices.
    indexed = product(*(enumerate(factor) for factor in factors))
    grid = {tuple(i for i, _ in row): [value for _, value in row] for row in indexed}
    grid = {row: values for row, values in grid.items() if allowed(*values)}
    default = _cover(list(grid), strength)
    return [pytest.param(*values, marks=() if row in default else pytest.mark.grid) for row, values in grid.items()]


def _cover(rows: list[Row], strength: int) -> set[Row]:
    """Greedily takes the row with the most combinations that are still missing."""
    missing = {combination for row in rows for combination in _combinations(row, strength)}
    cover: set[Row] = set()
    while missing:
        best = max(rows, key=lambda row: len(missing.intersection(_combinations(row, strength))))
        cover.add(best)
        missing.difference_update(_combinations(best, strength))
    return cover


def _combinations(row: Row, strength: int) -> list[Any]:
    return list(combinations(enumerate(row), strength))
