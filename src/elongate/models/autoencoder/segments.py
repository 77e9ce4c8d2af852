"""Which tokens the decoder sees: decoded tokens form segments; each sees some latents and itself, no other segment."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import ClassVar

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.kv_store import Kept
from elongate.context.attention.kernel.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Segments(Attention):
    """The first `num_latents` keys are latents, the others the decoded tokens; the decoded tokens are the queries."""

    num_latents: int
    segments: tuple[tuple[int, int], ...]  # (tokens, number of leading latents that they see) of each segment
    causal: bool  # a token sees its segment up to itself; false: all of it

    word: ClassVar[str] = "segments"

    def layout(self, kept: Kept | None) -> Layout:
        """Return the layout of one call of the decoder."""
        length = self.num_latents + sum(size for size, _ in self.segments)
        return Layout(self, length, (((0, length),),), (self.num_latents, length), kept=kept)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        blocks: list[Block] = []
        start = self.num_latents
        # Segments that see the same latents see them in one block: the kernel is faster on large blocks.
        for num_seen, group in groupby(self.segments, itemgetter(1)):
            first = start
            for size, _ in group:
                own = (start, start + size)
                blocks.append(Block(own, own, "lower" if self.causal else "all"))
                start += size
            blocks.append(Block((first, start), (0, num_seen)))
        return (Region(tuple(blocks)),)
