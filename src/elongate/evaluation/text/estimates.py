"""A figure over samples and its standard error: of a mean, or by bootstrap where the figure is no mean over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

DRAWS = 200  # the error is then known to 5%


def mean_of(values: Sequence[float]) -> tuple[float, float | None]:
    found = np.array(values, dtype=np.float64)
    return float(found.mean()), float(found.std(ddof=1)) / len(found) ** 0.5 if len(found) > 1 else None


def bootstrapped(figure: Callable[[Int[np.ndarray, " n"]], float], count: int) -> tuple[float, float | None]:
    """The figure of all samples, and its standard deviation over draws of as many with replacement (Efron 1979); the same at every call.

    `figure` is given the numbers of samples.
    """
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    error = float(np.std([figure(draw) for draw in draws], ddof=1)) if count > 1 else None
    return figure(np.arange(count)), error
