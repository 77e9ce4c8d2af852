"""The sections of `results.json` as estimates: losses by bin of positions, needle figures by length."""

from __future__ import annotations

import math
from typing import Any

from elongate.evaluation.report.estimate import Estimate

ROWS = ("before", "untuned", "after")
AS_TRAINED = "as trained"
NEEDLE_MEASURES = ("log_probability", "margin", "exact_match")

Bin = tuple[int, int]  # start and end in tokens, the end not included


def rows_of(section: dict[str, Any]) -> list[str]:
    """The rows that were computed, in the order of a run."""
    return [row for row in ROWS if row in section]


def bins_of(part: dict[str, Any]) -> list[Bin]:
    """The bins of a part of the curve (`table` or `fine`)."""
    return list(zip(part["edges"][:-1], part["edges"][1:], strict=True))


def losses_of(part: dict[str, Any], row: str) -> dict[Bin, Estimate]:
    """Loss in nats by bin, without bins that no document reaches; empty for a row that was not computed."""
    if row not in part:
        return {}
    cells = zip(bins_of(part), part[row]["loss"], part[row]["standard_error"], strict=True)
    return {bin_: Estimate(loss, known(error)) for bin_, loss, error in cells if known(loss) is not None}


def needle_of(needle: dict[str, Any], row: str, measure: str) -> dict[int, Estimate]:
    """A needle figure by length, averaged over the depths, whose samples are independent; without lengths that could not be read."""
    if row not in needle:
        return {}
    by_length = zip(needle["lengths"], needle[row][measure], needle[row][f"{measure}_standard_error"], strict=True)
    estimates = {length: mean_of_cells([known(cell) for cell in cells], errors) for length, cells, errors in by_length}
    return {length: estimate for length, estimate in estimates.items() if estimate is not None}


def mean_of_cells(cells: list[float | None], errors: list[float | None]) -> Estimate | None:
    """None unless every cell was measured: means over different depths would not be comparable."""
    values = [cell for cell in cells if cell is not None]
    if len(values) < len(cells):
        return None
    finite = [error for error in map(known, errors) if error is not None]
    error = math.hypot(*finite) / len(cells) if len(finite) == len(cells) else None
    return Estimate(sum(values) / len(values), error)


def figures_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections that list their figures by name, a value and an error in each row: tasks on text."""
    return {name: section for name, section in results.items() if isinstance(section, dict) and "figures" in section}


def figure_of(section: dict[str, Any], row: str, figure: str) -> Estimate | None:
    """None where no sample could be read."""
    value = known(section[row][figure])
    return None if value is None else Estimate(value, known(section[row][f"{figure}_standard_error"]))


def known(value: float | None) -> float | None:
    """The value, or None where it could not be computed (null or NaN: an empty bin, an error of one sample)."""
    return value if value is not None and math.isfinite(value) else None


def span(bin_: Bin) -> str:
    return f"{bin_[0]}-{bin_[1]}"


def region(bin_: Bin, original_length: int, target_length: int) -> str:
    """Which lengths a bin lies beyond, in words."""
    if bin_[0] >= target_length:
        return f"beyond target ({target_length})"
    if bin_[0] >= original_length:
        return f"beyond original ({original_length})"
    return AS_TRAINED


def mebibytes(count: float) -> str:
    amount = count / 2**20
    return f"{amount:,.0f} MiB" if amount >= 10 else f"{amount:.2g} MiB"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
