"""SelfExtend (Jin et al. 2024, arXiv:2401.01325, section 3): far keys share positions in groups, without training.

Keys less than w = `window_length` away have true positions. For farther ones, with G = `group_size`, the query at p is at
p // G + w - w // G and the key at p is at p // G: distances go on where the window ends, each for about G tokens. This reaches
G · (L - w + w // G) tokens, where L is the original length. The authors' code divides w by G without rounding; the paper rounds, and so
does this.

Departs from the paper in `plain_length`: queries below it, by default all within the original length, see true positions only, since
all their distances were trained. So the model is below its original length what it was. With the paper's rule for all queries
(`plain_length` 0) it is so for documents of up to w + 1 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.near_and_far import NearAndFar, Positions
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class SelfExtend(NearAndFar):
    group_size: int = 8  # far tokens that share a position, at least 1

    word: ClassVar[str] = "self_extend"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.group_size > 0, "group_size", self.group_size, "must be at least 1", "use {key}=8")

    def check(self, length: int, original_length: int) -> None:
        super().check(length, original_length)
        window = self.for_length(length, original_length).window_length
        assert window is not None  # for_length

        def reach(group: int) -> int:
            return group * (original_length - window + window // group)

        needed = self.group_size
        while reach(needed) < length:
            needed += 1
        rule = f"reaches {reach(self.group_size)} tokens with window_length={window}, not {length}"
        require(needed == self.group_size, "group_size", self.group_size, rule, f"use {{key}}={needed} or more")

    def far_query(self, positions: Positions) -> Positions:
        assert self.window_length is not None  # for_length
        return positions // self.group_size + (self.window_length - self.window_length // self.group_size)

    def far_key(self, positions: Positions) -> Positions:
        return positions // self.group_size
