"""A mean with its standard error: how every figure of a report is kept, compared and printed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

LEVEL = 0.95  # an estimate whose interval of this level contains 0 cannot be distinguished from 0
STANDARD_ERRORS = 2.0  # half the width of that interval when the error itself is known well


@dataclass(frozen=True)
class Estimate:
    """A mean; `standard_error` is None if there is only one observation.

    `f"{estimate:.3f}"` is `1.640 ± 0.020`. An error of 0 (a count that is the same in every run) is not printed.
    """

    mean: float
    standard_error: float | None = None
    degrees: int | None = None  # degrees of freedom of the error, n - 1 for n seeds; None: many

    def __format__(self, spec: str) -> str:
        return f"{self.mean:z{spec}} {self.error_text(spec)}".rstrip()

    def error_text(self, spec: str) -> str:
        """`± 0.020`, or an empty string. An error too small for the digits of the mean keeps one digit of its own."""
        if not self.standard_error:
            return ""
        text = format(self.standard_error, spec)
        return f"± {text if float(text.replace(',', '')) else format(self.standard_error, '.1g')}"

    def __mul__(self, scale: float) -> Estimate:
        error = None if self.standard_error is None else self.standard_error * abs(scale)
        return replace(self, mean=self.mean * scale, standard_error=error)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of independent estimates; the error is too large if they share documents or seeds."""
        if self.standard_error is None or other.standard_error is None:
            return Estimate(self.mean - other.mean)
        # The smaller number of degrees of freedom makes the interval wider, never narrower.
        degrees = min((one for one in (self.degrees, other.degrees) if one is not None), default=None)
        return Estimate(self.mean - other.mean, math.hypot(self.standard_error, other.standard_error), degrees)

    @property
    def positive(self) -> bool:
        """Above zero by more than chance, by Student's t if few seeds determine the error."""
        if not self.standard_error:
            return self.mean > 0
        if self.degrees is None:
            return self.mean > STANDARD_ERRORS * self.standard_error
        from scipy.special import stdtrit

        return self.mean > float(stdtrit(self.degrees, (1 + LEVEL) / 2)) * self.standard_error
