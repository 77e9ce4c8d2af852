"""A window and global tokens (Longformer: Beltagy et al. 2020, arXiv:2004.05150, section 3.1).

The first `num_global` tokens of a document see all tokens and are seen by all; every other token sees a window. In
a causal model no token looks ahead, so global tokens are only seen by the tokens behind them. Time and memory are
linear in the length. Documents of at most `window_length` tokens see full attention.

Departs from the paper: global tokens use the same projections as the others; Longformer has a second set of weights
for them, which no other checkpoint has. The paper's window of 512, half of it on each side, is a `window_length` of
257.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Range
from elongate.context.attention.sinks import first_keys
from elongate.context.attention.window import check_positive, check_within
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class GlobalLocal(Attention):
    """Settings of global tokens and window."""

    num_global: int = 1  # first tokens, at least 1; 1 is BERT's [CLS]
    window_length: int | None = None  # tokens per side, with the query's own, at least 1; None: the original length

    word: ClassVar[str] = "global_local"

    def __post_init__(self) -> None:
        remedy = "use {key}=1, or context/attention=window"
        require(self.num_global > 0, "num_global", self.num_global, "must be at least 1", remedy)
        check_positive(self.window_length)

    def check(self, length: int, original_length: int) -> None:
        rule = f"is more than the length of {length} tokens"
        require(self.num_global <= length, "num_global", self.num_global, rule, f"use {{key}}={length} or less")
        check_within(self.window_length, length)

    def for_length(self, length: int, original_length: int) -> GlobalLocalPattern:
        width = original_length if self.window_length is None else self.window_length
        return GlobalLocalPattern(self.num_global, width)


@dataclass(frozen=True)
class GlobalLocalPattern(Pattern):
    """Global tokens and a window of known width."""

    num_global: int
    window_length: int

    word: ClassVar[str] = GlobalLocal.word

    def unseen(self, query: int) -> Range:
        return self.num_global, max(self.num_global, query - self.window_length + 1)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        seen_by_all = tuple(first_keys(length, self.num_global, self.window_length))
        seeing_all = () if causal else tuple(block.transposed() for block in seen_by_all)
        return (Region((*blocks.window(length, self.window_length, causal), *seen_by_all, *seeing_all)),)
