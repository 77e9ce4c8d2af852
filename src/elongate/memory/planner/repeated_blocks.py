"""Attention blocks of equal shape, run once in a dry run and counted as often as they occur.

A window of 128 tokens over 32768 tokens is more than a thousand blocks per layer, of a handful of shapes. Blocks of a
region run one after the other, so the peak of memory is that of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from elongate.context.attention.kernel.attend import BatchedRegion
from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.layout import Layout


@contextmanager
def repeated_blocks(repeat: Callable[[int], None]) -> Iterator[None]:
    """In this context, loops over the blocks of a region visit each shape once or twice.

    `repeat` is called with the number of blocks that the current one represents, and with 1 after the loop.
    """
    original = Layout._build

    def build(layout: Layout, *args: Any) -> list[BatchedRegion]:
        return [replace(region, rows=[_Representatives(row, repeat) for row in region.rows]) for region in original(layout, *args)]

    Layout._build = build  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Layout._build = original  # type: ignore[method-assign]


class _Representatives(Sequence[Block]):
    """Of each shape the blocks with the first and the last keys, so that the range of keys stays the same."""

    def __init__(self, blocks: Sequence[Block], repeat: Callable[[int], None]) -> None:
        self._repeat = repeat
        groups: dict[tuple[int, int, str], list[Block]] = {}
        for block in blocks:
            sizes = block.queries[1] - block.queries[0], block.keys[1] - block.keys[0]
            groups.setdefault((*sizes, block.shape), []).append(block)
        self._blocks: list[Block] = []
        self._times: list[int] = []
        for group in groups.values():
            ordered = sorted(group, key=lambda block: block.keys)
            ends = ordered[:1] if len(ordered) == 1 else [ordered[0], ordered[-1]]
            self._blocks += ends
            # The first block counts once, because the kernel allocates its results there.
            self._times += [1, len(ordered) - 1][: len(ends)]

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: Any) -> Any:
        return self._blocks[index]

    def __iter__(self) -> Iterator[Block]:
        try:
            for block, times in zip(self._blocks, self._times, strict=True):
                self._repeat(times)
                yield block
        finally:
            self._repeat(1)
