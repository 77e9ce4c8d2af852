"""Who sees whom in the decoder: decoded tokens in stretches, each of which sees latents and itself, and nothing of the other stretches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import ClassVar

from elongate.context.attention.attention import Pattern, Region
from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.kv_store import KeyValueStore
from elongate.context.attention.kernel.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Stretches(Pattern):
    """The first `num_latents` keys are latents, the others the decoded tokens; these are the queries."""

    num_latents: int
    stretches: tuple[tuple[int, int], ...]  # tokens of each, and how many of the latents, the first ones, they see
    causal: bool  # a token sees its stretch up to itself; false: all of it

    word: ClassVar[str] = "stretches"

    def layout(self, kept: KeyValueStore | None) -> Layout:
        length = self.num_latents + sum(size for size, _ in self.stretches)
        return Layout(self, length, (((0, length),),), (self.num_latents, length), store=kept)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        blocks: list[Block] = []
        start = self.num_latents
        # Stretches that see the same latents see them in one block: the larger, the better for the kernel.
        for seen, group in groupby(self.stretches, itemgetter(1)):
            first = start
            for size, _ in group:
                own = (start, start + size)
                blocks.append(Block(own, own, "lower" if self.causal else "all"))
                start += size
            blocks.append(Block((first, start), (0, seen)))
        return (Region(tuple(blocks)),)
