"""A base at the original length, then stages that double the length (arXiv:2402.13753, arXiv:2407.21783).

Stages get equal shares of the steps, and the last stage also gets the remainder. The position's factor follows the
length of the stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from elongate.context.curriculum.curriculum import Base, Curriculum, Stage
from elongate.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Progressive(Curriculum):
    """A base, then a stage for every doubling of the length."""

    base: Base = field(default_factory=Base)

    word: ClassVar[str] = "progressive"

    def stages(self, original_length: int, target_length: int, steps: int) -> list[Stage]:
        lengths = []
        length = 2 * original_length
        while length < target_length:
            lengths.append(length)
            length *= 2
        lengths.append(target_length)
        share = steps // len(lengths)
        if share == 0:
            rule = f"must give each of the {len(lengths)} stages of context/curriculum=progressive at least one step"
            raise ConfigError("steps", steps, rule, f"use {{key}}={len(lengths)} or more")
        rest = steps - share * len(lengths)
        return [Stage(f"extend-{n}", n, share + (rest if n == target_length else 0)) for n in lengths]
