"""Shifted sparse attention, S2 (LongLoRA: Chen et al. 2023, arXiv:2309.12307, section 3.2), used in training only.

A sequence is cut into groups whose tokens only see their own group. For the second half of the heads the cuts are
half a group later, so that information passes from group to group; the half group before the first of these cuts is
its own group. The roll of the paper's pseudocode, and of its code without flash attention, joins that half group to
the last one, so that early tokens are computed from late ones; the code with flash attention does not, and neither
does this module. In packed sequences groups are counted from the start of each document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class Shifted(Attention):
    """Settings of shifted groups."""

    group_ratio: float = 0.25  # group length / sequence length, above 0 and below 1; must give whole groups

    word: ClassVar[str] = "shifted"

    def __post_init__(self) -> None:
        fits = 0 < self.group_ratio < 1
        require(fits, "group_ratio", self.group_ratio, "must be above 0 and below 1", "use {key}=0.25")

    def check(self, length: int, original_length: int) -> None:
        wanted = self.group_ratio * length
        if round(wanted) >= 2 and length % round(wanted) == 0:
            return
        sizes = [size for size in range(2, length // 2 + 1) if length % size == 0]
        nearest = min(sizes, key=lambda size: abs(size - wanted), default=0)
        rule = f"does not cut a length of {length} into whole groups of at least 2 tokens"
        remedy = f"use {{key}}={nearest / length:.9g}" if nearest else f"use a length such as {-(-length // 4) * 4}"
        raise ConfigError("group_ratio", self.group_ratio, rule, remedy)

    def for_length(self, length: int, original_length: int) -> ShiftedPattern:
        return ShiftedPattern(round(self.group_ratio * length))


@dataclass(frozen=True)
class ShiftedPattern(Pattern):
    """Shifted groups of a size in tokens, which also applies to shorter documents."""

    group_length: int

    word: ClassVar[str] = Shifted.word

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        half = num_heads // 2
        rule = "shifts half of the heads, but the model has only one"
        require(half > 0, "context/attention", self.word, rule, "use {key}=window")
        straight = tuple(blocks.tiles(length, self.group_length, causal))
        shifted = tuple(blocks.tiles(length, self.group_length, causal, first=self.group_length // 2))
        return Region(straight, heads=(0, half)), Region(shifted, heads=(half, num_heads))
