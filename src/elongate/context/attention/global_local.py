"""A window and global tokens (Longformer: Beltagy et al. 2020, arXiv:2004.05150, section 3.1).

The first `num_global` tokens of a document see all and are seen by all, every other one sees a window. In a causal model nobody looks
ahead: global tokens are those that everyone behind them sees. Time and memory are linear in the length. Documents of at most
`window_length` tokens see plain attention.

Departs from the paper: global tokens share the projections of the others; Longformer has a second set of weights for them, which no
other checkpoint has. Its window of 512, half of it on each side, is `window_length` 257.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.sinks import first_keys
from elongate.context.attention.window import check_positive, check_within
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class GlobalLocal(Attention):
    num_global: int = 1  # first tokens, at least 1; 1 is BERT's [CLS]
    window_length: int | None = None  # tokens from the query on, its own included, at least 1; None: the original length

    word: ClassVar[str] = "global_local"

    def __post_init__(self) -> None:
        require(self.num_global > 0, "num_global", self.num_global, "must be at least 1", "use {key}=1, or the attention window")
        check_positive(self.window_length)

    def for_length(self, length: int, original_length: int) -> GlobalLocal:
        return self if self.window_length is not None else replace(self, window_length=original_length)

    def check(self, length: int, original_length: int) -> None:
        rule = f"is more than the {length} tokens that there are"
        require(self.num_global <= length, "num_global", self.num_global, rule, f"use {{key}}={length} or less")
        check_within(self.window_length, length)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert self.window_length is not None  # for_length
        seen_by_all = tuple(first_keys(length, self.num_global, self.window_length))
        seeing_all = () if causal else tuple(block.transposed() for block in seen_by_all)
        return (Region((*blocks.window(length, self.window_length, causal), *seen_by_all, *seeing_all)),)
