"""Which queries see which keys, as a list of blocks: the score matrix without the matrix.

Everything here is a pure function of lengths. A block is a rectangle or one half of a square; halves are what torch's fused kernels
compute without a mask. Ranges are half open, (start, stop), and count the tokens of one document from its first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Range = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Queries × keys. `lower` and `upper` are halves of a square with its diagonal: key ≤ query and key ≥ query, from its corner."""

    queries: Range
    keys: Range
    shape: Literal["all", "lower", "upper"] = "all"

    def shifted(self, by: int) -> Block:
        """The same block for a document that starts `by` tokens later."""
        moved = [(start + by, stop + by) for start, stop in (self.queries, self.keys)]
        return replace(self, queries=moved[0], keys=moved[1])

    def transposed(self) -> Block:
        """Queries and keys exchanged."""
        return Block(self.keys, self.queries, _TRANSPOSED[self.shape])


_TRANSPOSED: dict[str, Literal["all", "lower", "upper"]] = {"all": "all", "lower": "upper", "upper": "lower"}


def full(length: int, causal: bool) -> Iterator[Block]:
    """Every pair; causal: no key after its query."""
    if length:
        yield Block((0, length), (0, length), "lower" if causal else "all")


def tiles(length: int, size: int, causal: bool, first: int | None = None) -> Iterator[Block]:
    """Tiles of `size` tokens that see nothing but themselves. The first may have another size; the last is what is left."""
    start = 0
    while start < length:
        stop = min(start + (size if start or first is None else first), length)
        yield Block((start, stop), (start, stop), "lower" if causal else "all")
        start = stop


def window(length: int, width: int, causal: bool) -> Iterator[Block]:
    """Keys less than `width` tokens from the query: behind it, and ahead of it too unless causal. Time and memory linear in length."""
    for tile in tiles(length, width, causal):
        yield tile
        for block in _behind(tile.queries, width):
            yield block
            if not causal:
                yield block.transposed()


def _behind(queries: Range, width: int) -> Iterator[Block]:
    """Keys before the tile, each seen by the queries that are less than `width` away from it."""
    start, stop = queries
    if start == 0 or width == 1:
        return
    first = start - width + 1  # the earliest key that the first query sees
    size = min(stop - start, width - 1)
    yield Block((start, start + size), (first, first + size), "upper")
    if first + size < start:
        yield Block((start, start + size), (first + size, start))


def beyond(length: int, width: int) -> Iterator[Block]:
    """Keys at least `width` tokens behind the query: what a causal window leaves."""
    if length > width:
        yield Block((width, length), (0, length - width), "lower")


def restricted(blocks: Iterable[Block], queries: Range) -> Iterator[Block]:
    """The part of the blocks that lies in a range of queries."""
    for block in blocks:
        start, stop = max(queries[0], block.queries[0]), min(queries[1], block.queries[1])
        if start >= stop:
            continue
        if block.shape == "all":
            yield replace(block, queries=(start, stop))
            continue
        # A stretch of a triangle is a smaller triangle with a rectangle beside it.
        corner = block.keys[0] + start - block.queries[0]
        end = corner + stop - start
        yield Block((start, stop), (corner, end), block.shape)
        beside = (block.keys[0], corner) if block.shape == "lower" else (end, block.keys[1])
        if beside[0] < beside[1]:
            yield Block((start, stop), beside)
