"""95% confidence intervals, each for the kind of figure that it suits."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
DRAWS = 2000  # of a bootstrap

Interval = tuple[float, float]


def share_interval(successes: int, n: int) -> Interval:
    """The interval of a share of n independent trials (Wilson 1927).

    It stays within 0 and 1, and its width is above 0 even if all or none of the trials succeed.
    """
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def mean_interval(samples: Float[np.ndarray, " n"]) -> Interval:
    """The interval of the mean of at least two independent samples, by Student's t."""
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(samples) - 1) * samples.std(ddof=1) / len(samples) ** 0.5
    return float(samples.mean() - half), float(samples.mean() + half)


def bootstrap_interval(samples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    """The interval of any figure of n independent samples, bias-corrected and accelerated (Efron 1987).

    Samples are n, or n × values. `statistic` gets many draws together: draws × n, or draws × n × values. If
    all draws give the same figure, the width is 0.
    """
    from scipy.stats import bootstrap

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns if all draws are the same, which is handled below
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


def percentile_interval(samples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    """The interval of a figure with few possible values, such as one of several lengths (Efron 1979).

    Such a figure has no acceleration for `bootstrap_interval` to correct. Too narrow for fewer than 20 samples.
    """
    rows = np.random.default_rng(seed).integers(len(samples), size=(DRAWS, len(samples)))
    low, high = np.quantile(statistic(samples[rows]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)
