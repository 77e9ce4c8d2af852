"""Constant: the peak rate after the warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.training.schedule.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    word: ClassVar[str] = "constant"

    def after_warmup(self, progress: float) -> float:
        return 1.0
