"""Evolutionary search for factors of frequencies (LongRoPE: Ding et al. 2024, arXiv:2402.13753, algorithm 1).

A population grows out of known factors; from round to round the best become the parents of mutated and crossed children. Factors never
fall from a faster to a slower pair: that is what keeps the search small. Departures from the paper's code: a child is drawn anew until it
is one that has not been tried; a mutation draws between the neighbours as they are then, so none is thrown away; a crossover takes each
factor from either parent with even odds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from elongate.errors import require

_DIGITS = 2  # of a factor that is drawn: the paper's step of 0.01
_DRAWS = 100  # of a child, until there is a new one

Factors = Float[np.ndarray, " half"]  # a name of jaxtyping


@dataclass(frozen=True)
class Evolved:
    factors: Factors
    loss: float
    started: dict[str, float]  # the losses of what the search began with
    losses: list[float]  # the best of the first population, and of each round after it
    num_tried: int


@dataclass(frozen=True, kw_only=True)
class Evolution:
    population: int = 64  # candidates that the search begins with, at least parents
    iterations: int = 10  # rounds; the paper: 40; 0: no search
    mutations: int = 16  # children of one parent, each round
    crossovers: int = 16  # children of two parents, each round
    parents: int = 32  # best candidates that the next round comes from, at least 2
    mutation_probability: float = 0.3  # that a factor is drawn anew, in (0, 1]
    num_documents: int = 5  # beginnings of training documents that a candidate is tried on, each as long as the target, at least 1

    def __post_init__(self) -> None:
        require(self.iterations >= 0, "iterations", self.iterations, "must be at least 0", "use {key}=10")
        for name in ("mutations", "crossovers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 0", "use {key}=10")
        require(self.mutations + self.crossovers > 0, "mutations", self.mutations, "must be above 0 where crossovers=0", "use {key}=16")
        require(self.parents >= 2, "parents", self.parents, "must be at least 2", "use {key}=32")
        rule = f"must be at least parents={self.parents}"
        require(self.population >= self.parents, "population", self.population, rule, f"use {{key}}={2 * self.parents}")
        rate = self.mutation_probability
        require(0 < rate <= 1, "mutation_probability", rate, "must be in (0, 1]", "use {key}=0.3")
        require(self.num_documents > 0, "num_documents", self.num_documents, "must be at least 1", "use {key}=5")

    @property
    def num_candidates(self) -> int:
        return self.population + self.iterations * (self.mutations + self.crossovers)

    def run(
        self,
        starts: Mapping[str, Factors],
        highest: float,
        loss: Callable[[Factors], float],
        random: np.random.Generator,
        told: Callable[[int, float], None],
    ) -> Evolved:
        """The factors of the lowest loss, between 1 and `highest`.

        `told` is called after each candidate with their number and the best loss so far.
        """
        tried = _Tried(loss, told)
        for factors in starts.values():
            tried.add(factors)
        mutated = partial(_mutated, highest, self.mutation_probability, random)
        for _ in range(self.population - len(tried.losses)):
            tried.add_new(partial(mutated, list(starts.values())))
        best_losses = [tried.lowest]
        for _ in range(self.iterations):
            parents = tried.best(self.parents)
            for _ in range(self.mutations):
                tried.add_new(partial(mutated, parents))
            for _ in range(self.crossovers):
                # Parents that are much alike have few children: then one is mutated instead.
                if not tried.add_new(partial(_crossed, random, parents)):
                    tried.add_new(partial(mutated, parents))
            best_losses.append(tried.lowest)
        started = {name: tried.losses[tuple(factors)] for name, factors in starts.items()}
        return Evolved(tried.best(1)[0], tried.lowest, started, best_losses, len(tried.losses))


class _Tried:
    """Candidates and their losses."""

    def __init__(self, loss: Callable[[Factors], float], told: Callable[[int, float], None]) -> None:
        self._loss, self._told = loss, told
        self.losses: dict[tuple[float, ...], float] = {}

    @property
    def lowest(self) -> float:
        return min(self.losses.values())

    def best(self, count: int) -> list[Factors]:
        return [np.array(factors) for factors in sorted(self.losses, key=self.losses.__getitem__)[:count]]

    def add(self, factors: Factors) -> None:
        if tuple(factors) not in self.losses:
            self.losses[tuple(factors)] = self._loss(factors)
            self._told(len(self.losses), self.lowest)

    def add_new(self, draw: Callable[[], Factors]) -> bool:
        """Adds a child whose factors do not fall and that was not tried before; whether one could be drawn."""
        for _ in range(_DRAWS):
            child = draw()
            if (np.diff(child) >= 0).all() and tuple(child) not in self.losses:
                self.add(child)
                return True
        return False


def _mutated(highest: float, rate: float, random: np.random.Generator, parents: Sequence[Factors]) -> Factors:
    """Some factors of a parent drawn anew, each between its neighbours."""
    child = parents[int(random.integers(len(parents)))].copy()
    for i in np.flatnonzero(random.random(len(child)) < rate):
        low = child[i - 1] if i > 0 else 1.0
        high = child[i + 1] if i + 1 < len(child) else highest
        child[i] = np.clip(np.round(random.uniform(low, high), _DIGITS), low, high)
    return child


def _crossed(random: np.random.Generator, parents: Sequence[Factors]) -> Factors:
    """Each factor from one of two parents, with even odds."""
    one, other = (parents[i] for i in random.choice(len(parents), 2, replace=False))
    return np.where(random.random(len(one)) < 0.5, one, other)
