"""A sliding window (Longformer, arXiv:2004.05150, section 3.1; Mistral 7B, arXiv:2310.06825, section 2).

A query sees the tokens less than `window_length` away: itself and those behind it, in a bidirectional model also
those ahead. Time and memory are linear in the length. Documents of at most `window_length` tokens see full
attention. Information from farther away only arrives through the layers, `window_length` - 1 tokens per layer;
beyond that it is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Block, Range
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Window(Attention):
    """Settings of a sliding window."""

    window_length: int | None = None  # tokens, the query's own included, at least 1; None: the original length

    word: ClassVar[str] = "window"
    acts_within_windows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.window_length)

    def check(self, length: int, original_length: int) -> None:
        check_within(self.window_length, length)

    def for_length(self, length: int, original_length: int) -> WindowPattern:
        return WindowPattern(original_length if self.window_length is None else self.window_length)


@dataclass(frozen=True)
class WindowPattern(Pattern):
    """A window of known width."""

    window_length: int

    word: ClassVar[str] = Window.word

    def within_window(self, width: int) -> WindowPattern:
        return WindowPattern(min(width, self.window_length))

    def within_chunks(self, size: int) -> ChunksPattern:
        return ChunksPattern(size, self.window_length)

    def unseen(self, query: int) -> Range:
        return 0, max(0, query - self.window_length + 1)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        return (Region(tuple(blocks.window(length, self.window_length, causal)), window=self.window_length),)


@dataclass(frozen=True)
class ChunksPattern(Pattern):
    """Chunks of a document that see only themselves, in each of them a window (Llama 4)."""

    size: int
    window_length: int

    word: ClassVar[str] = "chunks"

    def unseen(self, query: int) -> Range:
        return 0, max(query // self.size * self.size, query - self.window_length + 1)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        found: list[Block] = []
        for tile in blocks.tiles(length, self.size, causal):
            start, stop = tile.queries
            found += (block.shifted(start) for block in blocks.window(stop - start, self.window_length, causal))
        return (Region(tuple(found)),)


def check_positive(window_length: int | None) -> None:
    """Raises `ConfigError` for a window without tokens."""
    rule, remedy = "must be at least 1", "use {key}=null to derive it from the original length"
    require(window_length is None or window_length > 0, "window_length", window_length, rule, remedy)


def check_within(window_length: int | None, longest: int) -> None:
    """Raises `ConfigError` for a window that sees everything and therefore changes nothing."""
    fits = window_length is None or window_length <= longest
    rule = f"is wider than the {longest} tokens that there are to see"
    require(fits, "window_length", window_length, rule, f"use {{key}}={longest} or less")
