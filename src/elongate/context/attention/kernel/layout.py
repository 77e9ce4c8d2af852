"""The layout of one call of the network: documents of each row, the chunk to compute, and the store of its past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elongate.context.attention.attention import Pattern, Region
from elongate.context.attention.kernel.attend import BatchedRegion, Rotation, Slopes
from elongate.context.attention.kernel.blocks import Block, Range, band, behind_and_ahead, joined, restricted, strips
from elongate.context.attention.kernel.kv_store import KeyValueStore

# Queries per strip of a half under slopes, by device. Within a strip the bias grows by the slope from its corner on,
# and so does the rounding error of float32. Strips cost nothing on a CPU, whose operator works in tiles of 256 queries;
# a GPU computes in bfloat16, whose own rounding is much coarser.
_CPU_STRIP, _GPU_STRIP = 256, 8192
_PAGE = 512  # queries whose blocks are looked up together when a text is written token by token


@dataclass
class Layout:
    """Which tokens of a batch see each other; `documents` has one entry per row, or a single one for all rows."""

    pattern: Pattern
    length: int  # of the whole sequence
    documents: tuple[tuple[Range, ...], ...]
    chunk: Range  # tokens of this call
    positions: Int[Tensor, "rows length"] | None = None  # in the document; for rotations and slopes
    frequencies: Float[Tensor, " half"] | None = None  # radians per token; only if the pattern rotates
    slopes: Float[Tensor, " heads"] | None = None  # amount that a token of distance subtracts from a score; None: 0
    store: KeyValueStore | None = None
    _batched: dict[tuple[int, bool, int | None, int | None, Range], list[BatchedRegion]] = field(default_factory=dict)

    @classmethod
    def for_batch(
        cls,
        pattern: Pattern,
        shape: tuple[int, int],
        positions: Int[Tensor, "rows length"] | None,
        frequencies: Float[Tensor, " half"] | None,
        slopes: Float[Tensor, " heads"] | None = None,
    ) -> Layout:
        """The layout of a whole batch, rows × length; a position not above the one before it starts a document."""
        length = shape[1]
        documents: tuple[tuple[Range, ...], ...] = (((0, length),),)
        if positions is not None:
            documents = tuple(_split_documents(row) for row in positions.cpu())
            if len(set(documents)) == 1:
                documents = documents[:1]
        if not pattern.rotates and slopes is None:
            return cls(pattern, length, documents, (0, length))
        if positions is None:
            positions = torch.arange(length)[None]
        return cls(pattern, length, documents, (0, length), positions, frequencies, slopes)

    def for_chunk(self, chunk: Range, store: KeyValueStore | None) -> Layout:
        """The layout of a pass that computes only `chunk` of the same sequence. Each pass needs a new one."""
        if store is not None:
            store.start_pass()
        return replace(self, chunk=chunk, store=store, _batched={})

    @property
    def is_plain(self) -> bool:
        """Whether torch's own call computes the same: full attention of one document, all of it, without bias."""
        whole = self.documents == (((0, self.length),),) and self.chunk == (0, self.length)
        return whole and self.pattern.is_full and not self.pattern.rotates and self.slopes is None

    @property
    def windows(self) -> set[int | None]:
        """Sliding windows or chunks of the layers that have run so far (None: neither)."""
        return {chunks if window is None else window for _, _, window, chunks, _ in self._batched}

    def batched_regions(
        self, num_heads: int, causal: bool, sliding_window: int | None, chunk_size: int | None = None, dropped: Range = (0, 0)
    ) -> list[BatchedRegion]:
        """The regions of a layer with `num_heads` query heads, as tensors.

        Queries are counted from the first of the chunk, keys from the first of the sequence without the `dropped` ones.
        """
        key = (num_heads, causal, sliding_window, chunk_size, dropped)
        if key not in self._batched:
            self._batched[key] = self._build(self._pattern_of(sliding_window, chunk_size), num_heads, causal, dropped)
        return self._batched[key]

    def unseen(self, sliding_window: int | None, chunk_size: int | None) -> Range:
        """Tokens of the past that no query of a layer sees from this chunk on."""
        return self._pattern_of(sliding_window, chunk_size).unseen(self.chunk[0])

    def _pattern_of(self, sliding_window: int | None, chunk_size: int | None) -> Pattern:
        """The pattern of a layer. One with its own window keeps it: it sees tokens less than `sliding_window` away."""
        pattern = self.pattern if sliding_window is None else self.pattern.within_window(sliding_window)
        return pattern if chunk_size is None else pattern.within_chunks(chunk_size)

    def _build(self, pattern: Pattern, num_heads: int, causal: bool, dropped: Range) -> list[BatchedRegion]:
        first, last = self.documents[0][0]
        batched = []
        # The number of regions, their heads and their position maps are the same for documents of every length.
        for number, region in enumerate(_regions(pattern, last - first, num_heads, causal)):
            rows = [self._row_blocks(documents, pattern, number, num_heads, causal) for documents in self.documents]
            if self.slopes is None:
                blocks = [self._count_from_chunk(row, dropped) for row in rows]
                bands = None if region.window is None else self._bands(region.window, causal, dropped)
                batched.append(BatchedRegion(blocks, region.heads, *self._rotations(region, dropped), bands=bands))
            else:
                batched += self._with_slopes(rows, region.heads, dropped)
        return batched

    def _row_blocks(self, documents: tuple[Range, ...], pattern: Pattern, number: int, num_heads: int, causal: bool) -> list[Block]:
        """The blocks of region `number` in one row: those of each document, shifted there and cut to the chunk."""
        start, stop = self.chunk
        row: list[Block] = []
        for first, last in documents:
            if first < stop and last > start:
                if stop - start == 1:
                    row += (block.shifted(first) for block in _seen_by_one(pattern, last - first, num_heads, causal, number, start - first))
                    continue
                blocks = _regions(pattern, last - first, num_heads, causal)[number].blocks
                row += restricted((block.shifted(first) for block in blocks), self.chunk)
        return row

    def _bands(self, width: int, causal: bool, dropped: Range) -> list[list[Block]] | None:
        """The window of every document as one block, if every one is."""
        start, stop = self.chunk
        seen = [[document for document in row if document[0] < stop and document[1] > start] for row in self.documents]
        rows = [[band(document, self.chunk, width, causal) for document in row] for row in seen]
        if any(block is None for row in rows for block in row):
            return None
        return [self._count_from_chunk((block for block in row if block is not None), dropped) for row in rows]

    def _count_from_chunk(self, blocks: Iterable[Block], dropped: Range) -> list[Block]:
        """The blocks with their queries counted from the first one of the chunk, and their keys without the dropped ones."""
        start, (gap, end) = self.chunk[0], dropped
        counted = []
        for b in blocks:
            by = end - gap if b.keys[0] >= end else 0
            assert by or b.keys[1] <= gap or gap == end, "a pattern sees tokens that it calls unseen"
            counted.append(replace(b, queries=(b.queries[0] - start, b.queries[1] - start), keys=(b.keys[0] - by, b.keys[1] - by)))
        return counted

    def _with_slopes(self, rows: list[list[Block]], heads: Range | None, dropped: Range) -> Iterator[BatchedRegion]:
        """One region for the keys at or behind the queries and one for the keys ahead, where there are any."""
        assert self.positions is not None, "set together with the slopes"
        assert self.slopes is not None
        positions = self.positions.to(self.slopes.device)
        size = _CPU_STRIP if self.slopes.device.type == "cpu" else _GPU_STRIP
        for ahead, side in enumerate(zip(*map(behind_and_ahead, rows), strict=True)):
            if any(side):
                slopes = Slopes(self.slopes, positions[:, slice(*self.chunk)], self._without(positions, dropped), bool(ahead))
                yield BatchedRegion([self._count_from_chunk(strips(row, size), dropped) for row in side], heads, slopes=slopes)

    def _without(self, positions: Int[Tensor, "rows length"], dropped: Range) -> Int[Tensor, "rows kept"]:
        """Positions of the keys that are kept."""
        gap, end = dropped
        return positions[:, : self.chunk[1]] if gap == end else torch.cat([positions[:, :gap], positions[:, end : self.chunk[1]]], dim=1)

    def _rotations(self, region: Region, dropped: Range) -> tuple[Rotation | None, Rotation | None]:
        """The rotations of queries and keys that the kernel applies."""
        if self.positions is None or self.frequencies is None:
            return None, None
        start, stop = self.chunk
        positions = self.positions.to(self.frequencies.device)
        queries, keys = positions[:, start:stop], self._without(positions, dropped)
        scale = None if region.query_scale is None else region.query_scale(queries)
        query_positions = queries if region.query_positions is None else region.query_positions(queries)
        key_positions = keys if region.key_positions is None else region.key_positions(keys)
        return (
            Rotation.from_positions(query_positions, self.frequencies, scale),
            Rotation.from_positions(key_positions, self.frequencies),
        )


def _split_documents(positions: Int[Tensor, " length"]) -> tuple[Range, ...]:
    """The documents of a row."""
    starts = (torch.nonzero(positions[1:] <= positions[:-1])[:, 0] + 1).tolist()
    return tuple(pairwise([0, *starts, len(positions)]))


@lru_cache(maxsize=4096)
def _regions(pattern: Pattern, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
    return pattern.regions(length, num_heads, causal)


def _seen_by_one(pattern: Pattern, length: int, num_heads: int, causal: bool, number: int, query: int) -> Iterator[Block]:
    """The blocks of region `number` that one query sees, without a look at all blocks of a long document."""
    return joined(restricted(_page(pattern, length, num_heads, causal, number, query // _PAGE), (query, query + 1)))


@lru_cache(maxsize=64)
def _page(pattern: Pattern, length: int, num_heads: int, causal: bool, number: int, page: int) -> tuple[Block, ...]:
    """The blocks of region `number` for the queries of a page."""
    return tuple(restricted(_regions(pattern, length, num_heads, causal)[number].blocks, (page * _PAGE, (page + 1) * _PAGE)))
