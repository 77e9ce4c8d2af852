"""Warm-up, a stable phase, then a linear decay (Hu et al. 2024, arXiv:2404.06395)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.errors import require
from elongate.training.schedule.schedule import Decaying


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Decaying):
    decay_ratio: float = 0.2  # share of the steps after the warm-up in which the rate decays, in (0, 1]

    word: ClassVar[str] = "wsd"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.decay_ratio <= 1, "decay_ratio", self.decay_ratio, "must be in (0, 1]", "use {key}=0.2")

    def decay(self, progress: float) -> float:
        return min(1.0, (1 - progress) / self.decay_ratio)
