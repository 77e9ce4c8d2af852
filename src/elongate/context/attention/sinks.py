"""Attention sinks (StreamingLLM: Xiao et al. 2023, arXiv:2309.17453, section 3.2).

A query sees the first `num_sinks` tokens and a window. Positions are those in StreamingLLM's cache, where the
window follows directly on the sinks: true distances within the window, and at most `num_sinks` + `window_length` -
1 to a sink. One pass therefore computes what that cache computes token by token. Documents of at most `num_sinks` +
`window_length` tokens see full attention. Time and memory are linear in the length. The model stays fluent past its
trained length, but tokens between sinks and window are not seen: the usable context does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Int

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Block, Range
from elongate.context.attention.window import check_positive, check_within
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Sinks(Attention):
    """Settings of sinks and window."""

    num_sinks: int = 4  # first tokens, at least 1
    window_length: int | None = None  # tokens, the query's own included, at least 1; None: original length - num_sinks

    word: ClassVar[str] = "sinks"
    rotates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        remedy = "use {key}=4, or context/attention=window"
        require(self.num_sinks > 0, "num_sinks", self.num_sinks, "must be at least 1", remedy)
        check_positive(self.window_length)

    def check(self, length: int, original_length: int) -> None:
        rule = f"leaves no window within the original length of {original_length}"
        fits = self.window_length is not None or self.num_sinks < original_length
        require(fits, "num_sinks", self.num_sinks, rule, f"use {{key}}={original_length - 1} or less")
        check_within(self.window_length, length - self.num_sinks)

    def for_length(self, length: int, original_length: int) -> SinksPattern:
        width = original_length - self.num_sinks if self.window_length is None else self.window_length
        return SinksPattern(self.num_sinks, width)


@dataclass(frozen=True)
class SinksPattern(Pattern):
    """Sinks and a window of known width."""

    num_sinks: int
    window_length: int

    word: ClassVar[str] = Sinks.word
    rotates: ClassVar[bool] = True

    def unseen(self, query: int) -> Range:
        return self.num_sinks, max(self.num_sinks, query - self.window_length + 1)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert causal  # needs
        sinks = first_keys(length, self.num_sinks, self.window_length)
        return (
            Region(tuple(blocks.window(length, self.window_length, causal)), window=self.window_length),
            Region(tuple(sinks), query_positions=self.position_in_cache),
        )

    def position_in_cache(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        """Position of the newest token in the cache, which has dropped the tokens between sinks and window."""
        return positions.clip(max=self.num_sinks + self.window_length - 1)


def first_keys(length: int, count: int, width: int) -> Iterator[Block]:
    """The first `count` keys, for queries at least `width` tokens behind them: outside a causal window."""
    by_key = (block.transposed() for block in blocks.beyond(length, width))
    for block in blocks.restricted(by_key, (0, count)):
        yield block.transposed()
