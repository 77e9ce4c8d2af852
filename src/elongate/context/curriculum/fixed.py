"""The target length only.

For extending a pretrained model, and for training a fresh one long from the start, as a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.curriculum.curriculum import Curriculum, Stage


@dataclass(frozen=True, kw_only=True)
class Fixed(Curriculum):
    """One stage at the target length."""

    word: ClassVar[str] = "fixed"

    def stages(self, original_length: int, target_length: int, steps: int) -> list[Stage]:
        return [Stage("extend", target_length, steps)]
