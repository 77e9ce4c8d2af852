"""A base at the original length, then the target length: the course of most published extensions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from elongate.context.curriculum.curriculum import Base, Curriculum, Stage


@dataclass(frozen=True, kw_only=True)
class Extend(Curriculum):
    """A base, then one stage at the target length."""

    base: Base = field(default_factory=Base)

    word: ClassVar[str] = "extend"

    def stages(self, original_length: int, target_length: int, steps: int) -> list[Stage]:
        return [Stage("extend", target_length, steps)]
