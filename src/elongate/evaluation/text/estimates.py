"""Figures over samples with their standard errors: of a mean, or by bootstrap for a figure that is not a mean over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

DRAWS = 200  # determines the error to 5%


def mean_of(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; None for a single value."""
    found = np.array(values, dtype=np.float64)
    return float(found.mean()), float(found.std(ddof=1)) / len(found) ** 0.5 if len(found) > 1 else None


def bootstrapped(figure: Callable[[Int[np.ndarray, " n"]], float], count: int) -> tuple[float, float | None]:
    """The figure of all `count` samples and its standard error by bootstrap (Efron 1979); None for a single sample.

    `figure` gets the indices of the samples in a draw. The draws are the same in every call.
    """
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    error = float(np.std([figure(draw) for draw in draws], ddof=1)) if count > 1 else None
    return figure(np.arange(count)), error
