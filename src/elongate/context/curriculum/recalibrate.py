"""A base at the original length, then further training at that length, for positions that need no long texts.

DroPE (arXiv:2512.12167) is recalibrated in this way. The model is evaluated and exported at the target length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from elongate.context.curriculum.curriculum import Base, Curriculum, Stage


@dataclass(frozen=True, kw_only=True)
class Recalibrate(Curriculum):
    """A base, then one stage at the original length."""

    base: Base = field(default_factory=Base)

    word: ClassVar[str] = "recalibrate"

    def stages(self, original_length: int, target_length: int, steps: int) -> list[Stage]:
        return [Stage("recalibrate", original_length, steps)]
