"""Rows and figures of a section of results.json, and how numbers are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elongate.evaluation.presentation.drawings import Bin
from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.section import MISSING

ROWS = ("before", "untuned", "after")


def rows_of(section: Mapping[str, Any]) -> list[str]:
    """The rows that were measured, in the order of a run."""
    return [row for row in ROWS if row in section]


def known(value: float | None) -> float | None:
    """The value, or None if it could not be computed (null or NaN: an empty bin, an error of one sample)."""
    return value if value is not None and math.isfinite(value) else None


def figure_of(row: Mapping[str, Any], figure: str) -> Estimate | None:
    """A figure of a row with its standard error; None if no sample could be read."""
    value = known(row.get(figure))
    return None if value is None else Estimate(value, known(row.get(f"{figure}_standard_error")))


def number(value: float | None, digits: int) -> str:
    """The value with that many decimals, or a dash for None."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def numbers(values: Iterable[float | None], digits: int) -> list[str]:
    """The values with that many decimals, or dashes for None."""
    return [number(value, digits) for value in values]


def estimate_text(estimate: Estimate | None, digits: int) -> str:
    """`1.640 ± 0.020` with that many decimals, or a dash for None."""
    return MISSING if estimate is None else f"{estimate:,.{digits}f}"


def span(bin_: Bin) -> str:
    """`512-1024`."""
    return f"{bin_[0]}-{bin_[1]}"


def mebibytes(count: float) -> str:
    """A number of bytes as `1,024 MiB`."""
    amount = count / 2**20
    return f"{amount:,.0f} MiB" if amount >= 10 else f"{amount:.2g} MiB"


def duration(seconds: float) -> str:
    """`12.3 s`, `2 min 05 s` or `1 h 02 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: Any) -> str:
    """Nested values of results.json in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def title_of(word: str) -> str:
    """`longppl` is `Longppl`, `context_gain` is `Context gain`."""
    return word.replace("_", " ").capitalize()


def leaves(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Values below a tree by their path (`proof/attention_factor`); lists and nulls are left out."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{path}{key}/")
        elif value is not None and not isinstance(value, list):
            found[f"{path}{key}"] = value
    return found
