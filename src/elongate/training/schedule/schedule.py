"""The learning rate over the steps, as a share of its peak."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A linear warm-up from 0 to the peak, followed by a curve that subclasses define."""

    warmup_ratio: float = 0.05  # share of the steps that are warm-up, in [0, 1)
    warmup_steps: int | None = None  # steps of warm-up, at least 0, instead of the ratio; null: the ratio decides

    word: ClassVar[str]

    def __post_init__(self) -> None:
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "must be in [0, 1)", "use {key}=0.05")
        positive = self.warmup_steps is None or self.warmup_steps >= 0
        require(positive, "warmup_steps", self.warmup_steps, "must be at least 0", "use {key}=null for warmup_ratio")

    def check_steps(self, steps: int) -> None:
        """Raises `ConfigError` if the warm-up is not shorter than a training of that many steps."""
        fits = self.warmup_steps is None or self.warmup_steps < steps
        rule = f"must be below the number of steps, {steps}"
        require(fits, "warmup_steps", self.warmup_steps, rule, f"use {{key}}={steps // 10}, or {{key}}=null for warmup_ratio")

    def share(self, step: int, steps: int) -> float:
        """Returns the share of the peak rate at step 1 … steps."""
        warmup = self.warmup_ratio * steps if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            return step / warmup
        return self.after_warmup((step - warmup) / (steps - warmup))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """Returns the share as `progress` goes from 0 (end of the warm-up) to 1 (last step)."""


@dataclass(frozen=True, kw_only=True)
class Decaying(Schedule):
    """A schedule that ends at a share of the peak."""

    final_ratio: float = 0.1  # share of the peak at the last step, in [0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.final_ratio <= 1, "final_ratio", self.final_ratio, "must be in [0, 1]", "use {key}=0.1")

    def after_warmup(self, progress: float) -> float:
        return self.final_ratio + (1 - self.final_ratio) * self.decay(progress)

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Returns a value from 1 to 0 as `progress` goes from 0 to 1."""
