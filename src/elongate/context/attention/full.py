"""Every token sees its whole document; in a causal model only the tokens up to itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.window import ChunksPattern, WindowPattern


@dataclass(frozen=True, kw_only=True)
class Full(Attention, Pattern):
    """Full attention; it depends on no length, so it is its own pattern."""

    word: ClassVar[str] = "full"
    is_full: ClassVar[bool] = True
    acts_within_windows: ClassVar[bool] = True

    def needs(self) -> frozenset[str]:
        return frozenset()

    def for_length(self, length: int, original_length: int) -> Full:
        return self

    def within_window(self, width: int) -> Pattern:
        return WindowPattern(width)

    def within_chunks(self, size: int) -> Pattern:
        return ChunksPattern(size, size)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        return (Region(tuple(blocks.full(length, causal))),)
