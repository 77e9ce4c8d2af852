"""Dual chunk attention (DCA: An et al. 2024, arXiv:2402.17463, section 3), without training or with it.

With s = `chunk_length` and w = `local_length`, the key at p has position p mod s, counted from the start of its
chunk. The query at p has the same position for keys of its own chunk; for keys of the chunk before, min(p mod s +
s, s + w - 1), which keeps w true distances across the border; for all earlier keys, s + w - 1. No distance is
longer, so all are trained as long as s + w is at most the original length. Documents of up to s + w tokens see full
attention: by default, all documents up to the original length.

As in the paper, s defaults to 3/4 of the original length and w to the rest. The authors' code and vLLM count
differently: their chunk_size and local_size are s + w - 1 and w - 1 here, and the code sets them to 3/4 and 1/8 of
the original length. Their sharpening by 0.05 ln(length / original length) + 1 was not used for the paper's results
and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from jaxtyping import Int

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Block
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class DualChunk(Attention):
    """Settings of dual chunk attention."""

    chunk_length: int | None = None  # tokens, at least 1; None: 3/4 of the original length
    local_length: int | None = None  # tokens, at least 1, at most chunk_length; None: the rest of the original length

    word: ClassVar[str] = "dual_chunk"
    rotates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        remedy = "use {key}=null to derive it from the original length"
        for key, value in (("chunk_length", self.chunk_length), ("local_length", self.local_length)):
            require(value is None or value > 0, key, value, "must be at least 1", remedy)
        if self.chunk_length is not None and self.local_length is not None:
            rule, remedy = f"must be at most chunk_length={self.chunk_length}", f"use {{key}}={self.chunk_length}"
            require(self.local_length <= self.chunk_length, "local_length", self.local_length, rule, remedy)

    def check(self, length: int, original_length: int) -> None:
        sized = self.for_length(length, original_length)
        rule = f"must leave part of the original length of {original_length} for local_length"
        remedy = f"use {{key}}={3 * original_length // 4}"
        require(sized.chunk_length < original_length, "chunk_length", self.chunk_length, rule, remedy)
        rest = original_length - sized.chunk_length
        rule = f"with chunk_length={sized.chunk_length} exceeds the original length of {original_length}: not trained"
        require(sized.local_length <= rest, "local_length", self.local_length, rule, f"use {{key}}={rest} or less")

    def for_length(self, length: int, original_length: int) -> DualChunkPattern:
        chunk = max(1, 3 * original_length // 4) if self.chunk_length is None else self.chunk_length
        rest = min(chunk, max(1, original_length - chunk))
        return DualChunkPattern(chunk, rest if self.local_length is None else self.local_length)


@dataclass(frozen=True)
class DualChunkPattern(Pattern):
    """Dual chunk attention with both sizes known."""

    chunk_length: int
    local_length: int

    word: ClassVar[str] = DualChunk.word
    rotates: ClassVar[bool] = True

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert causal  # needs
        intra = tuple(blocks.tiles(length, self.chunk_length, causal))
        successive = tuple(Block(own.queries, before.queries) for before, own in pairwise(intra))
        earlier = [(own.queries, (0, before.queries[0])) for before, own in pairwise(intra) if before.queries[0]]
        inter = tuple(Block(queries, keys) for queries, keys in earlier)
        return (
            Region(intra, query_positions=self.in_chunk, key_positions=self.in_chunk),
            Region(successive, query_positions=self.successive, key_positions=self.in_chunk),
            Region(inter, query_positions=self.inter, key_positions=self.in_chunk),
        )

    def in_chunk(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        """Position counted from the start of the chunk."""
        return positions % self.chunk_length

    def successive(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        """Query position used against keys of the chunk before its own."""
        return (self.in_chunk(positions) + self.chunk_length).clip(max=self._farthest)

    def inter(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        """Query position used against keys more than one chunk back."""
        return positions * 0 + self._farthest

    @property
    def _farthest(self) -> int:
        return self.chunk_length + self.local_length - 1
