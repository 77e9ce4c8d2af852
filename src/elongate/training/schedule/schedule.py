"""The learning rate over the steps, as a share of its peak."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    warmup_ratio: float = 0.05  # share of the steps in which the rate rises linearly from 0, in [0, 1)

    word: ClassVar[str]

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "must be in [0, 1)", "use {key}=0.05")

    def share(self, step: int, steps: int) -> float:
        """The share of the peak rate at step 1 … steps."""
        warmup = self.warmup_ratio * steps
        if step < warmup:
            return step / warmup
        return self.after_warmup((step - warmup) / (steps - warmup))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The share as `progress` goes from 0 (end of the warm-up) to 1 (last step)."""


@dataclass(frozen=True, kw_only=True)
class Decaying(Schedule):
    final_ratio: float = 0.1  # share of the peak at the last step, in [0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.final_ratio <= 1, "final_ratio", self.final_ratio, "must be in [0, 1]", "use {key}=0.1")

    def after_warmup(self, progress: float) -> float:
        return self.final_ratio + (1 - self.final_ratio) * self.decay(progress)

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Falls from 1 to 0 as `progress` goes from 0 to 1."""
