"""Evolutionary search for factors of frequencies (LongRoPE: Ding et al. 2024, arXiv:2402.13753, algorithm 1).

A population grows out of known factors; in every round the best candidates become the parents of mutated and
crossed children. Factors never decrease from a faster to a slower pair, which keeps the search space small.
Departures from the authors' code: a child is redrawn until it has not been tried before; a mutation draws between
the current neighbours, so that no draw has to be rejected; a crossover takes each factor from either parent with
equal probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from elongate.errors import require

_DIGITS = 2  # decimals of a drawn factor: the paper's step of 0.01
_DRAWS = 100  # attempts to draw a child that has not been tried

Factors = Float[np.ndarray, " half"]
Progress = Callable[[int, float], None]  # called with the number of candidates tried and the lowest loss so far


@dataclass(frozen=True)
class Evolved:
    """The result of a search."""

    factors: Factors
    loss: float
    start_losses: dict[str, float]  # of the factors that the search started from
    losses: list[float]  # the lowest of the first population, and of each round after it
    num_tried: int


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """The sizes of a search."""

    population: int = 64  # candidates of the first population, at least parents
    iterations: int = 10  # rounds; the paper: 40; 0: no search
    mutations: int = 16  # children of one parent, each round
    crossovers: int = 16  # children of two parents, each round
    parents: int = 32  # best candidates that produce the next round, at least 2
    mutation_probability: float = 0.3  # that a factor is drawn again, in (0, 1]
    num_documents: int = 5  # training documents that a candidate is tried on, each cut to the target length, at least 1

    def __post_init__(self) -> None:
        require(self.iterations >= 0, "iterations", self.iterations, "must be at least 0", "use {key}=10")
        for name in ("mutations", "crossovers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 0", "use {key}=10")
        children = self.mutations + self.crossovers
        require(children > 0, "mutations", self.mutations, "must be above 0 if crossovers=0", "use {key}=16")
        require(self.parents >= 2, "parents", self.parents, "must be at least 2", "use {key}=32")
        rule = f"must be at least parents={self.parents}"
        require(self.population >= self.parents, "population", self.population, rule, f"use {{key}}={2 * self.parents}")
        rate = self.mutation_probability
        require(0 < rate <= 1, "mutation_probability", rate, "must be in (0, 1]", "use {key}=0.3")
        require(self.num_documents > 0, "num_documents", self.num_documents, "must be at least 1", "use {key}=5")

    @property
    def num_candidates(self) -> int:
        """Candidates that a search tries in total."""
        return self.population + self.iterations * (self.mutations + self.crossovers)

    def run(
        self,
        starts: Mapping[str, Factors],
        highest: float,
        loss: Callable[[Factors], float],
        random: np.random.Generator,
        report_progress: Progress,
    ) -> Evolved:
        """Returns the factors, between 1 and `highest`, with the lowest loss."""
        tried = _Candidates(loss, report_progress)
        for factors in starts.values():
            tried.add(factors)
        mutate = partial(_mutate, highest, self.mutation_probability, random)
        for _ in range(self.population - len(tried.losses)):
            tried.add_new(partial(mutate, list(starts.values())))
        best_losses = [tried.lowest]
        for _ in range(self.iterations):
            parents = tried.best(self.parents)
            for _ in range(self.mutations):
                tried.add_new(partial(mutate, parents))
            for _ in range(self.crossovers):
                # Very similar parents have few distinct children: mutate one of them instead.
                if not tried.add_new(partial(_cross, random, parents)):
                    tried.add_new(partial(mutate, parents))
            best_losses.append(tried.lowest)
        start_losses = {name: tried.losses[tuple(factors)] for name, factors in starts.items()}
        return Evolved(tried.best(1)[0], tried.lowest, start_losses, best_losses, len(tried.losses))


class _Candidates:
    """Candidates that have been tried, with their losses."""

    def __init__(self, loss: Callable[[Factors], float], report_progress: Progress) -> None:
        self._loss, self._report_progress = loss, report_progress
        self.losses: dict[tuple[float, ...], float] = {}

    @property
    def lowest(self) -> float:
        return min(self.losses.values())

    def best(self, count: int) -> list[Factors]:
        return [np.array(factors) for factors in sorted(self.losses, key=self.losses.__getitem__)[:count]]

    def add(self, factors: Factors) -> None:
        """Tries the factors unless they were tried before."""
        if tuple(factors) not in self.losses:
            self.losses[tuple(factors)] = self._loss(factors)
            self._report_progress(len(self.losses), self.lowest)

    def add_new(self, draw: Callable[[], Factors]) -> bool:
        """Tries a new child whose factors do not decrease; returns whether one could be drawn."""
        for _ in range(_DRAWS):
            child = draw()
            if (np.diff(child) >= 0).all() and tuple(child) not in self.losses:
                self.add(child)
                return True
        return False


def _mutate(highest: float, rate: float, random: np.random.Generator, parents: Sequence[Factors]) -> Factors:
    """Draws some factors of a parent again, each between its neighbours."""
    child = parents[int(random.integers(len(parents)))].copy()
    for i in np.flatnonzero(random.random(len(child)) < rate):
        low = child[i - 1] if i > 0 else 1.0
        high = child[i + 1] if i + 1 < len(child) else highest
        child[i] = np.clip(np.round(random.uniform(low, high), _DIGITS), low, high)
    return child


def _cross(random: np.random.Generator, parents: Sequence[Factors]) -> Factors:
    """Takes each factor from one of two parents, with equal probability."""
    one, other = (parents[i] for i in random.choice(len(parents), 2, replace=False))
    return np.where(random.random(len(one)) < 0.5, one, other)
