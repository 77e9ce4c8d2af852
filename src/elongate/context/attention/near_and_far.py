"""What SelfExtend and ReRoPE share: true positions within a window, others beyond it, all of them within what was trained."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Int

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.window import check_positive
from elongate.errors import require

Positions = Int[Any, "*batch length"]


@dataclass(frozen=True, kw_only=True)
class NearAndFar(Attention):
    window_length: int | None = None  # tokens, at least 1, below the original length; None: a quarter of it, the papers' 1024 of 4096
    plain_length: int | None = None  # tokens whose queries see true positions only, at least 0; None: the original length; the papers: 0

    rotates: ClassVar[bool] = True
    query_scale: ClassVar[Any] = None  # or a method from positions to factors of the query

    def __post_init__(self) -> None:
        check_positive(self.window_length)
        rule = "must be at least 0"
        require(self.plain_length is None or self.plain_length >= 0, "plain_length", self.plain_length, rule, "use {key}=0")

    def for_length(self, length: int, original_length: int) -> NearAndFar:
        window_length = max(1, original_length // 4) if self.window_length is None else self.window_length
        return replace(self, window_length=window_length, plain_length=original_length if self.plain_length is None else self.plain_length)

    def check(self, length: int, original_length: int) -> None:
        rule = f"must be below the original length of {original_length}: distances of the window and more have no trained position"
        fits = self.window_length is None or self.window_length < original_length
        require(fits, "window_length", self.window_length, rule, f"use {{key}}={original_length - 1} or less")

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert causal  # needs
        assert self.window_length is not None  # for_length
        assert self.plain_length is not None  # for_length
        plain = min(self.plain_length, length)
        extended = (plain, length)
        near = blocks.restricted(blocks.window(length, self.window_length, causal), extended)
        far = blocks.restricted(blocks.beyond(length, self.window_length), extended)
        return (
            Region((*blocks.full(plain, causal), *near), query_scale=self.query_scale),
            Region(tuple(far), query_positions=self.far_query, key_positions=self.far_key, query_scale=self.query_scale),
        )

    @abstractmethod
    def far_query(self, positions: Positions) -> Positions:
        """Where the query of each position is for keys that are far."""

    @abstractmethod
    def far_key(self, positions: Positions) -> Positions:
        """Where the key of each position is for queries that are far."""
