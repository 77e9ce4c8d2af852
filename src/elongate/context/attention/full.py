"""Every token sees every other one of its document: the earlier ones in a causal model, both sides in a bidirectional one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.window import Window


@dataclass(frozen=True, kw_only=True)
class Full(Attention):
    word: ClassVar[str] = "full"
    is_full: ClassVar[bool] = True

    def needs(self) -> frozenset[str]:
        return frozenset()

    def narrowed(self, width: int) -> Attention:
        return Window(window_length=width)

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        return (Region(tuple(blocks.full(length, causal))),)
