"""Dual chunk attention (DCA: An et al. 2024, arXiv:2402.17463, section 3), without training or with it.

With s = `chunk_length` and w = `local_length`, the key at p is at p mod s, counted from the start of its chunk. The query at p is there
too for keys of its own chunk; for those of the chunk before at min(p mod s + s, s + w - 1), which leaves w distances across the border
as they are; for all earlier ones at s + w - 1. No distance is longer, so all are trained while s + w is at most the original length.
Documents of up to s + w tokens see plain attention: by default all up to the original length.

The paper has s = 3/4 of the original length and w the rest, and so has this. The authors' code and vLLM count otherwise: what they call
chunk_size and local_size are s + w - 1 and w - 1 here, and the code takes 3/4 and 1/8 of the original length for them. Its sharpening
by 0.05 ln(length / original length) + 1 had no part in the paper's results and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

from jaxtyping import Int

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Block
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class DualChunk(Attention):
    chunk_length: int | None = None  # tokens, at least 1; None: 3/4 of the original length
    local_length: int | None = None  # tokens, at least 1, at most chunk_length; None: what the chunk leaves of the original length

    word: ClassVar[str] = "dual_chunk"
    rotates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        remedy = "use {key}=null for the one that follows from the original length"
        for key, value in (("chunk_length", self.chunk_length), ("local_length", self.local_length)):
            require(value is None or value > 0, key, value, "must be at least 1", remedy)
        if self.chunk_length is not None and self.local_length is not None:
            rule = f"must be at most chunk_length={self.chunk_length}: further back is another chunk"
            require(self.local_length <= self.chunk_length, "local_length", self.local_length, rule, f"use {{key}}={self.chunk_length}")

    def for_length(self, length: int, original_length: int) -> DualChunk:
        chunk_length = max(1, 3 * original_length // 4) if self.chunk_length is None else self.chunk_length
        local_length = min(chunk_length, max(1, original_length - chunk_length)) if self.local_length is None else self.local_length
        return replace(self, chunk_length=chunk_length, local_length=local_length)

    def check(self, length: int, original_length: int) -> None:
        sized = self.for_length(length, original_length)
        assert sized.chunk_length is not None  # for_length
        assert sized.local_length is not None  # for_length
        rule = f"must leave something of the original length of {original_length} for local_length"
        require(sized.chunk_length < original_length, "chunk_length", self.chunk_length, rule, f"use {{key}}={3 * original_length // 4}")
        room = original_length - sized.chunk_length
        rule = f"with chunk_length={sized.chunk_length} goes beyond the original length of {original_length}, to distances never trained"
        require(sized.local_length <= room, "local_length", self.local_length, rule, f"use {{key}}={room} or less")

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert causal  # needs
        assert self.chunk_length is not None  # for_length
        intra = tuple(blocks.tiles(length, self.chunk_length, causal))
        successive = tuple(Block(own.queries, before.queries) for before, own in pairwise(intra))
        inter = tuple(Block(own.queries, (0, before.queries[0])) for before, own in pairwise(intra) if before.queries[0])
        return (
            Region(intra, query_positions=self.in_chunk, key_positions=self.in_chunk),
            Region(successive, query_positions=self.successive, key_positions=self.in_chunk),
            Region(inter, query_positions=self.inter, key_positions=self.in_chunk),
        )

    def in_chunk(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        return positions % self.chunk_length

    def successive(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        """Of the query, for keys of the chunk before its own."""
        return (self.in_chunk(positions) + self.chunk_length).clip(max=self._farthest)

    def inter(self, positions: Int[Any, "*batch length"]) -> Int[Any, "*batch length"]:
        """Of the query, for keys of still earlier chunks."""
        return positions * 0 + self._farthest

    @property
    def _farthest(self) -> int:
        assert self.chunk_length is not None  # for_length
        assert self.local_length is not None  # for_length
        return self.chunk_length + self.local_length - 1
