"""Values that have the type of their field are those that omegaconf's conversion gives, so they are not converted."""

from __future__ import annotations

from typing import Any

import pytest

from elongate.config import _converted, _has_type

HINTS = [int, float, bool, str, int | None, float | None, str | None, int | str, int | float, list[int], list[int] | None]
VALUES = [None, True, False, 0, -3, 2**70, 0.0, -1.5, float("inf"), "", "word", "3", "null", "$x", "a b: c", [], [1, 2]]


@pytest.mark.parametrize("hint", HINTS)
def test_conversion_changes_no_value_of_the_right_type(hint: Any) -> None:
    for value in VALUES:
        if _has_type(value, hint):
            assert (type(_converted(value, hint)), _converted(value, hint)) == (type(value), value)


@pytest.mark.parametrize(("value", "hint"), [(3, int), (3.5, float), (False, bool), ("word", str), (None, int | None), (2, int | None)])
def test_usual_values_have_the_right_type(value: Any, hint: Any) -> None:
    assert _has_type(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [(True, int), (3, float), ("3", int), (3, str), (None, int), (1, list[int]), ([1], list[int]), ("${seed}", str), (1.5, int | None)],
)
def test_other_values_are_converted_or_refused(value: Any, hint: Any) -> None:
    assert not _has_type(value, hint)


@pytest.mark.parametrize(("value", "hint", "expected"), [(3, float, 3.0), ("3", int, 3), (3, str, "3"), ([1, "2"], list[int], [1, 2])])
def test_conversion_gives_the_type_of_the_field(value: Any, hint: Any, expected: Any) -> None:
    assert _converted(value, hint) == expected
    assert type(_converted(value, hint)) is type(expected)
