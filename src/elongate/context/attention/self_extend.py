"""SelfExtend (Jin et al. 2024, arXiv:2401.01325, section 3): groups of far keys share a position, without training.

Keys less than w = `window_length` away have true positions. For farther keys, with G = `group_size`, the query at p
has position p // G + w - w // G and the key at p has position p // G: distances continue where the window ends,
each of them shared by about G tokens. This reaches G · (L - w + w // G) tokens, where L is the original length. The
authors' code divides w by G without rounding; the paper rounds, and so does this module.

Departs from the paper in `plain_length`: queries before it, by default all within the original length, see true
positions only, because all their distances were trained. Within its original length the model is therefore
unchanged. With the paper's rule for all queries (`plain_length` 0) it is unchanged only for documents of up to w + 1
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.near_and_far import NearAndFar, NearAndFarPattern, Positions
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class SelfExtend(NearAndFar):
    """Settings of SelfExtend."""

    group_size: int = 8  # far tokens that share a position, at least 1

    word: ClassVar[str] = "self_extend"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.group_size > 0, "group_size", self.group_size, "must be at least 1", "use {key}=8")

    def check(self, length: int, original_length: int) -> None:
        super().check(length, original_length)
        window, _ = self.sizes(original_length)

        def reach(group: int) -> int:
            return group * (original_length - window + window // group)

        needed = self.group_size
        while reach(needed) < length:
            needed += 1
        rule = f"reaches {reach(self.group_size)} tokens with window_length={window}, not {length}"
        require(needed == self.group_size, "group_size", self.group_size, rule, f"use {{key}}={needed} or more")

    def for_length(self, length: int, original_length: int) -> SelfExtendPattern:
        return SelfExtendPattern(*self.sizes(original_length), self.group_size)


@dataclass(frozen=True)
class SelfExtendPattern(NearAndFarPattern):
    """SelfExtend with all sizes known."""

    group_size: int

    word: ClassVar[str] = SelfExtend.word

    def far_query(self, positions: Positions) -> Positions:
        return positions // self.group_size + (self.window_length - self.window_length // self.group_size)

    def far_key(self, positions: Positions) -> Positions:
        return positions // self.group_size
