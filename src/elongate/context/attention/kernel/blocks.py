"""Which queries see which keys, as a list of blocks: the score matrix without the matrix.

Everything here is a pure function of lengths. A block is a rectangle or one half of a square, because torch's fused
kernels compute both without a mask. Ranges are half open, (start, stop), and count the tokens of one document from
its first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Range = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Queries × keys. `lower` and `upper` are halves of a square that include its diagonal.

    Counted from the corner of the square, `lower` has key ≤ query and `upper` has key ≥ query. A `band` is a window as a
    whole: keys less than `width` behind the query, and as many ahead if `both_sides`. Its last query is its last key.
    """

    queries: Range
    keys: Range
    shape: Literal["all", "lower", "upper", "band"] = "all"
    width: int = 0
    both_sides: bool = False

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
    """Tiles of `size` tokens that only see themselves; the first may have another size, the last is the remainder."""
    start = 0
    while start < length:
        stop = min(start + (size if start or first is None else first), length)
        yield Block((start, stop), (start, stop), "lower" if causal else "all")
        start = stop


def window(length: int, width: int, causal: bool) -> Iterator[Block]:
    """Keys less than `width` tokens behind the query, unless causal also ahead of it. Linear in the length."""
    for tile in tiles(length, width, causal):
        yield tile
        for block in _behind(tile.queries, width):
            yield block
            if not causal:
                yield block.transposed()


def band(document: Range, chunk: Range, width: int, causal: bool) -> Block | None:
    """The part of a document's window in a chunk of queries, as one block; None if it is not one."""
    start, stop = max(document[0], chunk[0]), min(document[1], chunk[1])
    if not causal and (start, stop) != document:
        return None
    return Block((start, stop), (max(document[0], start - width + 1), stop), "band", width, not causal)


def _behind(queries: Range, width: int) -> Iterator[Block]:
    """Keys before the tile, for the queries of the tile that are less than `width` away from them."""
    start, stop = queries
    if start == 0 or width == 1:
        return
    first = start - width + 1  # the earliest key that the first query sees
    size = min(stop - start, width - 1)
    yield Block((start, start + size), (first, first + size), "upper")
    if first + size < start:
        yield Block((start, start + size), (first + size, start))


def beyond(length: int, width: int) -> Iterator[Block]:
    """Keys at least `width` tokens behind the query: the part that a causal window does not cover."""
    if length > width:
        yield Block((width, length), (0, length - width), "lower")


def restricted(blocks: Iterable[Block], queries: Range) -> Iterator[Block]:
    """The part of the blocks in a range of queries."""
    for block in blocks:
        start, stop = max(queries[0], block.queries[0]), min(queries[1], block.queries[1])
        if start >= stop:
            continue
        if block.shape == "all":
            yield replace(block, queries=(start, stop))
            continue
        # Some rows of a triangle are a smaller triangle and a rectangle.
        corner = block.keys[0] + start - block.queries[0]
        end = corner + stop - start
        yield Block((start, stop), (corner, end), block.shape)
        rectangle = (block.keys[0], corner) if block.shape == "lower" else (end, block.keys[1])
        if rectangle[0] < rectangle[1]:
            yield Block((start, stop), rectangle)


def joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same pairs of one query in as few blocks as possible."""
    last: Block | None = None
    for block in sorted((replace(block, shape="all") for block in blocks), key=lambda block: block.keys):
        if last is not None and last.keys[1] == block.keys[0]:
            last = replace(last, keys=(last.keys[0], block.keys[1]))
            continue
        if last is not None:
            yield last
        last = block
    if last is not None:
        yield last


def behind_and_ahead(blocks: Iterable[Block]) -> tuple[list[Block], list[Block]]:
    """The same pairs in two lists: keys at or before their query, and keys after it."""
    behind: list[Block] = []
    ahead: list[Block] = []
    for block in blocks:
        nearest, farthest = _keys_ahead(block)
        if farthest <= 0:
            behind.append(block)
        elif nearest > 0:
            ahead.append(block)
        else:
            for side, more in zip((behind, ahead), behind_and_ahead(_cut_at_diagonal(block)), strict=True):
                side += more
    return behind, ahead


def _keys_ahead(block: Block) -> Range:
    """Smallest and largest number of tokens by which a key of the block is ahead of its query."""
    first, last = block.keys[0] - block.queries[1] + 1, block.keys[1] - 1 - block.queries[0]
    corner = block.keys[0] - block.queries[0]  # the pairs on the diagonal of a half
    return (corner if block.shape == "upper" else first), (corner if block.shape == "lower" else last)


def _cut_at_diagonal(block: Block) -> Iterator[Block]:
    """Cuts a block with pairs on both sides of key = query into smaller blocks."""
    (q, q_stop), (k, k_stop) = block.queries, block.keys
    if block.shape != "all":
        # No attention has such a half. Cut in two, it is two smaller halves and a square.
        middle = (q_stop - q) // 2
        yield from restricted([block], (q, q + middle))
        yield from restricted([block], (q + middle, q_stop))
        return
    start, stop = max(q, k), min(q_stop, k_stop)
    for queries in ((q, start), (stop, q_stop)):
        if queries[0] < queries[1]:
            yield Block(queries, block.keys)
    for keys in ((k, start), (stop, k_stop)):
        if keys[0] < keys[1]:
            yield Block((start, stop), keys)
    yield Block((start, stop), (start, stop), "lower")
    if stop - start > 1:
        yield Block((start, stop - 1), (start + 1, stop), "upper")


def strips(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """The same pairs, with every half cut into strips of `size` queries."""
    for block in blocks:
        if block.shape == "all":
            yield block
            continue
        for start in range(*block.queries, size):
            yield from restricted([block], (start, start + size))
