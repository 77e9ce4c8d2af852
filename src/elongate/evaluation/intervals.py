"""How sure a figure is: 95% confidence intervals, each for what it is made for."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
DRAWS = 2000  # of a bootstrap

Interval = tuple[float, float]


def of_share(successes: int, n: int) -> Interval:
    """Of a share of n independent trials (Wilson 1927): never below 0 nor above 1, and not of width 0 where all or none succeeded."""
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def of_mean(samples: Float[np.ndarray, " n"]) -> Interval:
    """Of the mean of n independent samples, by Student's t. At least two samples."""
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(samples) - 1) * samples.std(ddof=1) / len(samples) ** 0.5
    return float(samples.mean() - half), float(samples.mean() + half)


def by_bootstrap(samples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    """Of any figure of n independent samples, n or n × of, bias-corrected and accelerated (Efron 1987).

    `statistic` is given many draws at once, draws × n or draws × n × of. Where all draws give one figure the interval has no width.
    """
    from scipy.stats import bootstrap

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws that are all alike, which is answered below
        found = bootstrap(
            (np.arange(len(samples)),),
            lambda rows, axis: statistic(samples[rows.reshape(-1, rows.shape[-1])]).reshape(rows.shape[:-1]),
            n_resamples=DRAWS,
            confidence_level=LEVEL,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if np.isnan(found.low):
        return (figure := float(statistic(samples[None])[0])), figure
    return float(found.low), float(found.high)


def by_percentiles(samples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    """Of a figure that takes few values, such as a length out of several: the middle of what draws come to (Efron 1979).

    As `by_bootstrap`, which such a figure gives no acceleration to correct by. Too narrow for few samples: for fewer than 20 use none.
    """
    rows = np.random.default_rng(seed).integers(len(samples), size=(DRAWS, len(samples)))
    low, high = np.quantile(statistic(samples[rows]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)
