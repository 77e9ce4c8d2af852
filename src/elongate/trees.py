"""Nested mappings, as configurations and results are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Returns all values by their dotted keys (`model.dim`). Lists and empty mappings count as values."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        is_tree = isinstance(value, Mapping) and len(value) > 0
        values |= flatten(value, f"{path}{key}.") if is_tree else {f"{path}{key}": value}
    return values
