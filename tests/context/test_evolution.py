"""The search finds a known optimum, and every candidate satisfies the rules."""

from __future__ import annotations

import numpy as np
import pytest

from elongate.context.position.evolution import Evolution, Evolved
from elongate.errors import ConfigError

BEST = np.array([1.0, 1.37, 2.5, 2.5, 6.25, 9.0])
STARTS = {"even": np.full(6, 8.0), "rising": np.array([1.0, 1.0, 1.0, 8.0, 8.0, 8.0])}


def search(seed: int, evolution: Evolution) -> tuple[Evolved, list[np.ndarray], list[float]]:
    tried: list[np.ndarray] = []
    reported: list[float] = []

    def loss(factors: np.ndarray) -> float:
        tried.append(factors)
        return float(((factors - BEST) ** 2).sum())

    found = evolution.run(STARTS, 10.0, loss, np.random.default_rng(seed), lambda done, best: reported.append(best))
    return found, tried, reported


@pytest.mark.slow
def test_the_best_factors_are_found() -> None:
    found, _, _ = search(0, Evolution(iterations=40, population=32, parents=8, mutations=12, crossovers=4))
    assert found.loss < 0.05 < 30 < min(found.start_losses.values())
    np.testing.assert_allclose(found.factors, BEST, atol=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_rounds_improve_and_candidates_are_valid_and_new(seed: int) -> None:
    evolution = Evolution(population=20, iterations=8, mutations=5, crossovers=5, parents=6)
    found, tried, reported = search(seed, evolution)
    assert len(found.losses) == 9
    assert (np.diff(found.losses) <= 0).all()
    assert found.losses[-1] == found.loss == min(reported) == reported[-1]
    assert len(tried) == found.num_tried == evolution.num_candidates
    assert len({tuple(factors) for factors in tried}) == len(tried)
    for factors in tried:
        assert (np.diff(factors) >= 0).all()
        assert factors.min() >= 1
        assert factors.max() <= 10
    for name, start in STARTS.items():
        assert found.start_losses[name] == float(((start - BEST) ** 2).sum())


def test_the_same_seed_gives_the_same_result() -> None:
    small = Evolution(population=8, iterations=3, parents=4)
    one, again, other = (search(seed, small)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": -1}, "iterations=-1: must be at least 0"),
        ({"mutations": 0, "crossovers": 0}, "mutations=0: must be above 0 if crossovers=0"),
        ({"mutation_probability": 0.0}, r"mutation_probability=0.0: must be in \(0, 1\]"),
        ({"num_documents": 0}, "num_documents=0: must be at least 1"),
    ],
)
def test_ranges(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evolution(**fields)
