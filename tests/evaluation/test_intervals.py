"""Intervals contain the truth as often as they claim, and at the edges they agree with closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from elongate.evaluation.measurement.intervals import bootstrap_interval, mean_interval, percentile_interval, share_interval

DRAWS = 2000


def coverage(held: list[bool]) -> float:
    return sum(held) / len(held)


@pytest.mark.parametrize(("n", "share"), [(40, 0.5), (40, 0.85), (250, 0.95)])
def test_the_interval_of_a_share(n: int, share: float) -> None:
    random = np.random.default_rng(0)
    successes = random.binomial(n, share, size=DRAWS).tolist()
    held = {k: low <= share <= high for k in set(successes) for low, high in [share_interval(k, n)]}
    assert 0.93 <= coverage([held[k] for k in successes]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 48])
def test_the_interval_of_a_mean(n: int) -> None:
    random = np.random.default_rng(0)
    intervals = [mean_interval(random.normal(1.7, 0.4, size=n)) for _ in range(DRAWS)]
    assert 0.93 <= coverage([low <= 1.7 <= high for low, high in intervals]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("repeats", "tolerance"), [(600, 0.03), pytest.param(DRAWS, 0.02, marks=pytest.mark.grid)])
def test_the_bootstrap_interval_of_a_ratio_of_sums(repeats: int, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token-weighted mean: documents have different numbers of tokens, and their losses depend on these."""
    monkeypatch.setattr("elongate.evaluation.measurement.intervals.DRAWS", 500)
    random = np.random.default_rng(0)
    truth = 2.0

    def ratio(drawn: np.ndarray) -> np.ndarray:
        return drawn[:, :, 0].sum(axis=1) / drawn[:, :, 1].sum(axis=1)

    held = []
    for number in range(repeats):
        counts = random.integers(50, 150, size=60)
        samples = np.stack([counts * (truth + random.normal(0, 0.5, size=60)), counts], axis=1)
        low, high = bootstrap_interval(samples, ratio, number)
        held.append(low <= truth <= high)
    assert coverage(held) == pytest.approx(0.95, abs=tolerance)


@pytest.mark.slow
def test_the_percentile_interval_of_one_of_a_few_lengths() -> None:
    """The shortest of four lengths with a loss within 0.01 of the lowest; documents differ by more than that."""
    random = np.random.default_rng(0)
    means = np.array([2.0, 1.6, 1.505, 1.5])
    truth = 4

    def shortest(drawn: np.ndarray) -> np.ndarray:
        averages = drawn.mean(axis=1)
        return 2 ** np.argmax(averages - averages.min(axis=1, keepdims=True) < 0.01, axis=1)

    intervals = [percentile_interval(means + random.normal(0, 0.03, size=(60, 4)), shortest, number) for number in range(200)]
    assert coverage([low <= truth <= high for low, high in intervals]) >= 0.93
    assert len(set(intervals)) > 1
    assert all(low in (1, 2, 4, 8) and high in (1, 2, 4, 8) for low, high in intervals)


def test_the_interval_of_a_share_of_0_or_1_has_a_width() -> None:
    """Wilson's closed form: z² / (n + z²) above none of n."""
    z2 = 1.959963984540054**2
    assert share_interval(0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    assert share_interval(10, 10) == pytest.approx((10 / (10 + z2), 1.0))


def test_the_interval_of_equal_samples_has_no_width() -> None:
    assert bootstrap_interval(np.ones(5), lambda drawn: drawn.mean(axis=1), 0) == (1.0, 1.0)


def test_a_bootstrap_is_the_same_for_the_same_seed() -> None:
    samples = np.random.default_rng(0).normal(size=20)
    once, again, other = (bootstrap_interval(samples, lambda drawn: drawn.mean(axis=1), seed) for seed in (1, 1, 2))
    assert once == again != other
