"""A base at the original length, then more of it at the same length: for positions that reach further without training on long texts.

DroPE (arXiv:2512.12167) recalibrates so. The model is measured and exported at the target length all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from elongate.context.curriculum.curriculum import Base, Curriculum, Stage


@dataclass(frozen=True, kw_only=True)
class Recalibrate(Curriculum):
    base: Base = field(default_factory=Base)

    word: ClassVar[str] = "recalibrate"

    def stages(self, original_length: int, target_length: int, steps: int) -> list[Stage]:
        return [Stage("recalibrate", original_length, steps)]
