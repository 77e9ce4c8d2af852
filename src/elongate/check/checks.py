"""A check: a title, and a function that returns a detail or raises `AssertionError`."""

from __future__ import annotations

from collections.abc import Callable

ORIGINAL, TARGET = 32, 128  # tokens; small enough for dense score matrices
HEADS = 4
Check = tuple[str, Callable[[], str]]


def ensure(condition: bool, text: str) -> None:
    """Raises `AssertionError` with the text unless the condition is true."""
    if not condition:
        raise AssertionError(text)
