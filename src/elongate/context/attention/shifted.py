"""Shifted sparse attention, S2 (LongLoRA: Chen et al. 2023, arXiv:2309.12307, section 3.2): short in training, full in evaluation.

A sequence is cut into groups that see nothing but themselves. The second half of the heads is cut half a group later, so that
information passes from group to group; the half group before the first such cut is a group of its own. The roll of the paper's
pseudocode, and of its code without flash attention, joins that half group to the last one, so that early tokens are computed with late
ones; the code with flash attention does not, nor does this. In packed sequences groups are counted from the start of each document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel import blocks
from elongate.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class Shifted(Attention):
    group_ratio: float = 0.25  # of the length of a sequence, a whole number of groups, above 0 and below 1

    word: ClassVar[str] = "shifted"

    def __post_init__(self) -> None:
        require(0 < self.group_ratio < 1, "group_ratio", self.group_ratio, "must be above 0 and below 1", "use {key}=0.25")

    def for_length(self, length: int, original_length: int) -> Groups:
        return Groups(round(self.group_ratio * length))

    def check(self, length: int, original_length: int) -> None:
        wanted = self.group_ratio * length
        if round(wanted) >= 2 and length % round(wanted) == 0:
            return
        sizes = [size for size in range(2, length // 2 + 1) if length % size == 0]
        nearest = min(sizes, key=lambda size: abs(size - wanted), default=0)
        rule = f"does not cut a length of {length} into whole groups of at least 2 tokens"
        remedy = f"use {{key}}={nearest / length:.9g}" if nearest else f"use a length such as {-(-length // 4) * 4}"
        raise ConfigError("group_ratio", self.group_ratio, rule, remedy)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        return self.for_length(length, length).regions(length, num_heads, causal)


@dataclass(frozen=True)
class Groups(Attention):
    """Shifted groups of a size in tokens, whatever the length of the document."""

    group_length: int

    word: ClassVar[str] = Shifted.word

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        half = num_heads // 2
        require(half > 0, "context/attention", self.word, "shifts half of the heads, and the model has one", "use {key}=window")
        straight = tuple(blocks.tiles(length, self.group_length, causal))
        shifted = tuple(blocks.tiles(length, self.group_length, causal, first=self.group_length // 2))
        return Region(straight, heads=(0, half)), Region(shifted, heads=(half, num_heads))
