"""ReRoPE (Su 2023, kexue.fm/archives/9708): no distance beyond the window, without training.

Keys less than `window_length` away have true positions, all others are exactly `window_length` away, so that their order is lost.
Queries are multiplied by max(1, ln(position + 1) / ln(`scale_base`)), which keeps attention as sharp among more keys; so does the
author's code.

Departs from the author in `plain_length`: queries below it, by default all within the original length, see true positions only, since
all their distances were trained. So the model is below its original length what it was. With his rule for all queries (`plain_length` 0)
it is so for documents of up to `window_length` + 1 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float

from elongate.context.attention.near_and_far import NearAndFar, Positions
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class ReRope(NearAndFar):
    scale_base: int | None = None  # tokens, at least 2, the length of a sequence for no scaling; None: the original length

    word: ClassVar[str] = "rerope"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale_base is None or self.scale_base > 1, "scale_base", self.scale_base, "must be at least 2", "use {key}=null")

    def for_length(self, length: int, original_length: int) -> NearAndFar:
        scaled = replace(self, scale_base=original_length) if self.scale_base is None else self
        return super(ReRope, scaled).for_length(length, original_length)

    def far_query(self, positions: Positions) -> Positions:
        assert self.window_length is not None  # for_length
        return positions * 0 + self.window_length

    def far_key(self, positions: Positions) -> Positions:
        return positions * 0

    def query_scale(self, positions: Positions) -> Float[Any, "*batch length"]:
        assert self.scale_base is not None  # for_length
        return ((positions + 1).double().log() / math.log(self.scale_base)).clip(min=1)
