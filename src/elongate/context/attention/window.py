"""A sliding window (Beltagy et al. 2020, arXiv:2004.05150, section 3.1; in a language model Jiang et al. 2023, arXiv:2310.06825,
section 2).

A query sees the tokens less than `window_length` away: itself and those behind it, in a bidirectional model those ahead too. Time and
memory are linear in the length. Documents of at most `window_length` tokens see plain attention. What lies farther off comes only
through the layers between, `window_length` - 1 tokens a layer, and beyond that it is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel import blocks
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Window(Attention):
    window_length: int | None = None  # tokens, the query's own included, at least 1; None: the original length

    word: ClassVar[str] = "window"

    def __post_init__(self) -> None:
        check_positive(self.window_length)

    def for_length(self, length: int, original_length: int) -> Window:
        return self if self.window_length is not None else replace(self, window_length=original_length)

    def check(self, length: int, original_length: int) -> None:
        check_within(self.window_length, length)

    def narrowed(self, width: int) -> Window:
        return Window(window_length=min(width, self.window_length or width))

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert self.window_length is not None  # for_length
        return (Region(tuple(blocks.window(length, self.window_length, causal))),)


def check_positive(window_length: int | None) -> None:
    """Raises `ConfigError` for a window without tokens."""
    rule, remedy = "must be at least 1", "use {key}=null for the one that follows from the original length"
    require(window_length is None or window_length > 0, "window_length", window_length, rule, remedy)


def check_within(window_length: int | None, longest: int) -> None:
    """Raises `ConfigError` for a window that sees everything, so that it changes nothing."""
    rule = f"is wider than the {longest} tokens that there are to see"
    require(window_length is None or window_length <= longest, "window_length", window_length, rule, f"use {{key}}={longest} or less")
