"""The target length only: how a pretrained model is extended, and how a fresh one is trained long from the start, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.curriculum.curriculum import Curriculum, Stage


@dataclass(frozen=True, kw_only=True)
class Fixed(Curriculum):
    word: ClassVar[str] = "fixed"

    def stages(self, original_length: int, target_length: int, steps: int) -> list[Stage]:
        return [Stage("extend", target_length, steps)]
