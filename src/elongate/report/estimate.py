"""A mean with its standard error: how every figure of a report is kept, compared and printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

LEVEL = 0.95  # what lies within the interval of that much around 0 is called not distinguishable from it
STANDARD_ERRORS = 2.0  # half of that interval, where the error itself is known well


@dataclass(frozen=True)
class Estimate:
    """A mean; `standard_error` is None where one observation gives none.

    `f"{estimate:.3f}"` reads `1.640 ± 0.020`. An error of 0 (a count that is the same in every run) is not printed.
    """

    mean: float
    standard_error: float | None = None
    degrees: int | None = None  # of freedom behind the error, as of n seeds n - 1; None: enough of them

    def __format__(self, spec: str) -> str:
        return f"{self.mean:z{spec}} {self.error_text(spec)}".rstrip()

    def error_text(self, spec: str) -> str:
        """`± 0.020`, or nothing. An error too small for the digits of the mean keeps one of its own: it is not 0."""
        if not self.standard_error:
            return ""
        text = format(self.standard_error, spec)
        return f"± {text if float(text.replace(',', '')) else format(self.standard_error, '.1g')}"

    def __mul__(self, scale: float) -> Estimate:
        return replace(
            self, mean=self.mean * scale, standard_error=None if self.standard_error is None else self.standard_error * abs(scale)
        )

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of independent estimates; where they share documents or seeds, its error is too large."""
        if self.standard_error is None or other.standard_error is None:
            return Estimate(self.mean - other.mean)
        degrees = min((known for known in (self.degrees, other.degrees) if known is not None), default=None)  # cautious
        return Estimate(self.mean - other.mean, math.hypot(self.standard_error, other.standard_error), degrees)

    @property
    def positive(self) -> bool:
        """Above zero by more than chance, by Student's t where few seeds are behind the error."""
        if not self.standard_error:
            return self.mean > 0
        if self.degrees is None:
            return self.mean > STANDARD_ERRORS * self.standard_error
        from scipy.special import stdtrit

        return self.mean > float(stdtrit(self.degrees, (1 + LEVEL) / 2)) * self.standard_error


def mean_over(values: Sequence[float]) -> Estimate | None:
    """The mean of independent observations (seeds); None where there are none."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error, len(values) - 1 if error is not None else None)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """`ours - theirs`, both by seed: over the common seeds where there are at least two, else between the two means.

    Sharing a seed is sharing the data and the first weights, so pairing removes what both runs have in common.
    The standard error is None where neither way gives one; the whole is None where a side is empty.
    """
    common = sorted(ours.keys() & theirs.keys())
    if len(common) > 1:
        return mean_over([ours[seed] - theirs[seed] for seed in common])
    left, right = mean_over(list(ours.values())), mean_over(list(theirs.values()))
    return left - right if left and right else None
