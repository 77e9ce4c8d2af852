"""A straight line from the peak to the final rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.training.schedule.schedule import Decaying


@dataclass(frozen=True, kw_only=True)
class Linear(Decaying):
    """A straight line."""

    word: ClassVar[str] = "linear"

    def decay(self, progress: float) -> float:
        return 1 - progress
