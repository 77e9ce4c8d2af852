"""The common part of SelfExtend and ReRoPE: true positions within a window, other trained positions beyond it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.window import check_positive
from elongate.errors import require

Positions = Int[Any, "*batch length"]
Scales = Float[Any, "*batch length"]


@dataclass(frozen=True, kw_only=True)
class NearAndFar(Attention):
    """Settings that both methods share."""

    window_length: int | None = None  # tokens, at least 1, below the original length; None: a quarter of it
    plain_length: int | None = None  # first queries that see true positions only; None: the original length

    rotates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.window_length)
        fits = self.plain_length is None or self.plain_length >= 0
        require(fits, "plain_length", self.plain_length, "must be at least 0", "use {key}=0")

    def check(self, length: int, original_length: int) -> None:
        rule = f"must be below the original length of {original_length}: longer distances have no trained position"
        fits = self.window_length is None or self.window_length < original_length
        require(fits, "window_length", self.window_length, rule, f"use {{key}}={original_length - 1} or less")

    def sizes(self, original_length: int) -> tuple[int, int]:
        """Window length and plain length, with the defaults filled in."""
        window_length = max(1, original_length // 4) if self.window_length is None else self.window_length
        return window_length, original_length if self.plain_length is None else self.plain_length


@dataclass(frozen=True)
class NearAndFarPattern(Pattern):
    """The regions that both methods share."""

    window_length: int
    plain_length: int

    rotates: ClassVar[bool] = True
    query_scale: ClassVar[Any] = None  # or a method that maps positions to factors of the query

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert causal  # needs
        plain = min(self.plain_length, length)
        extended = (plain, length)
        near = blocks.restricted(blocks.window(length, self.window_length, causal), extended)
        far = blocks.restricted(blocks.beyond(length, self.window_length), extended)
        return (
            Region((*blocks.full(plain, causal), *near), query_scale=self.query_scale),
            Region(
                tuple(far),
                query_positions=self.far_query,
                key_positions=self.far_key,
                query_scale=self.query_scale,
            ),
        )

    @abstractmethod
    def far_query(self, positions: Positions) -> Positions:
        """Position of each query when it is compared with far keys."""

    @abstractmethod
    def far_key(self, positions: Positions) -> Positions:
        """Position of each key when it is compared with far queries."""
