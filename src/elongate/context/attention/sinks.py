"""Attention sinks (StreamingLLM: Xiao et al. 2023, arXiv:2309.17453, section 3.2).

A query sees the first `num_sinks` tokens and a window. Positions are those in StreamingLLM's cache, where the window follows directly
on the sinks: true distances within the window, at most `num_sinks` + `window_length` - 1 to a sink. So one pass computes here what that
cache gives token by token. Documents of at most `num_sinks` + `window_length` tokens see plain attention. Time and memory are linear in
the length. It keeps a model fluent past its length, but what lies between sinks and window is not seen: the context is no longer than
before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Int

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.window import check_positive, check_within
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Sinks(Attention):
    num_sinks: int = 4  # first tokens, at least 1
    window_length: int | None = None  # tokens, the query's own included, at least 1; None: original length - num_sinks

    word: ClassVar[str] = "sinks"
    rotates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.num_sinks > 0, "num_sinks", self.num_sinks, "must be at least 1", "use {key}=4, or the attention window")
        check_positive(self.window_length)

    def for_length(self, length: int, original_length: int) -> Sinks:
        return self if self.window_length is not None else replace(self, window_length=original_length - self.num_sinks)

    def check(self, length: int, original_length: int) -> None:
        rule = f"leaves no window within the original length of {original_length}"
        fits = self.window_length is not None or self.num_sinks < original_length
        require(fits, "num_sinks", self.num_sinks, rule, f"use {{key}}={original_length - 1} or less")
        check_within(self.window_length, length - self.num_sinks)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert causal  # needs
        assert self.window_length is not None  # for_length
        return (
            Region(tuple(blocks.window(length, self.window_length, causal))),
            Region(tuple(first_keys(length, self.num_sinks, self.window_length)), query_positions=self.position_in_cache),
        )

    def position_in_cache(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        """Of the newest token, once the cache has dropped what lies between sinks and window."""
        assert self.window_length is not None  # for_length
        return positions.clip(max=self.num_sinks + self.window_length - 1)


def first_keys(length: int, count: int, width: int) -> Iterator[Block]:
    """The first `count` keys, for the queries at least `width` tokens behind them: what a causal window leaves of these keys."""
    by_key = (block.transposed() for block in blocks.beyond(length, width))
    for block in blocks.restricted(by_key, (0, count)):
        yield block.transposed()
