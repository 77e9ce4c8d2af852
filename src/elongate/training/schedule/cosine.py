"""Half a cosine from the peak to the final rate (Loshchilov & Hutter 2016, arXiv:1608.03983)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from elongate.training.schedule.schedule import Decaying


@dataclass(frozen=True, kw_only=True)
class Cosine(Decaying):
    """Half a cosine."""

    word: ClassVar[str] = "cosine"

    def decay(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2
