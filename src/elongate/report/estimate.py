"""Estimates over several seeds: their mean, and the difference of two groups of runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from elongate.evaluation.presentation.estimate import Estimate


def mean_over(values: Sequence[float]) -> Estimate | None:
    """The mean of independent observations (seeds); None without any."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error, len(values) - 1 if error is not None else None)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """`ours - theirs`, both by seed: paired over the common seeds if there are at least two, else between the two means.

    Runs of the same seed share the data and the initial weights, so pairing removes the variation that both runs have in common.
    The standard error is None if neither way gives one. Returns None if a side is empty.
    """
    common = sorted(ours.keys() & theirs.keys())
    if len(common) > 1:
        return mean_over([ours[seed] - theirs[seed] for seed in common])
    left, right = mean_over(list(ours.values())), mean_over(list(theirs.values()))
    return left - right if left and right else None
