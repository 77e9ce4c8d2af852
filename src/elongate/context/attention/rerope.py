"""ReRoPE (Su 2023, kexue.fm/archives/9708): no distance exceeds the window, without training.

Keys less than `window_length` away have true positions; all others are exactly `window_length` away, so their order
is lost. Queries are multiplied by max(1, ln(position + 1) / ln(`scale_base`)), as in the author's code, which keeps
attention sharp among more keys.

Departs from the author in `plain_length`: queries before it, by default all within the original length, see true
positions only, because all their distances were trained. Within its original length the model is therefore
unchanged. With the author's rule for all queries (`plain_length` 0) it is unchanged only for documents of up to
`window_length` + 1 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.near_and_far import NearAndFar, NearAndFarPattern, Positions, Scales
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class ReRope(NearAndFar):
    """Settings of ReRoPE."""

    scale_base: int | None = None  # tokens, at least 2; the sequence length gives no scaling; None: the original length

    word: ClassVar[str] = "rerope"

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.scale_base is None or self.scale_base > 1
        require(fits, "scale_base", self.scale_base, "must be at least 2", "use {key}=null")

    def for_length(self, length: int, original_length: int) -> ReRopePattern:
        scale_base = original_length if self.scale_base is None else self.scale_base
        return ReRopePattern(*self.sizes(original_length), scale_base)


@dataclass(frozen=True)
class ReRopePattern(NearAndFarPattern):
    """ReRoPE with all sizes known."""

    scale_base: int

    word: ClassVar[str] = ReRope.word

    def far_query(self, positions: Positions) -> Positions:
        return positions * 0 + self.window_length

    def far_key(self, positions: Positions) -> Positions:
        return positions * 0

    def query_scale(self, positions: Positions) -> Scales:
        """Factor of the query at each position."""
        return ((positions + 1).double().log() / math.log(self.scale_base)).clip(min=1)
