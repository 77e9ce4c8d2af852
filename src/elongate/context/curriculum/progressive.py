"""A base at the original length, then twice the length from stage to stage up to the target (as in arXiv:2402.13753 and arXiv:2407.21783).

The steps are shared out evenly, the last stage takes what is left over. The position's factor follows the length of the stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from elongate.context.curriculum.curriculum import Base, Curriculum, Stage
from elongate.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Progressive(Curriculum):
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
