"""How the tokens of one call of the network lie: their documents, the part of the sequence that is computed now, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elongate.context.attention.attention import Attention, Region
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.attend import Part, Rotation, Slopes
from elongate.context.attention.kernel.blocks import Block, Range, behind_and_ahead, restricted, strips
from elongate.context.attention.kernel.kv_store import Kept

# Queries of a half that are computed at once under slopes: its numbers grow by the slope from its corner on, and so does what float32
# rounds off. It costs nothing on a CPU, whose operator works in tiles of this size; a GPU computes in bfloat16, which is coarser by far.
_STRIP, _STRIP_ELSEWHERE = 256, 8192


@dataclass
class Layout:
    """`documents` are the same for all rows where there is one entry, else one entry a row."""

    attention: Attention
    length: int  # of the sequence
    documents: tuple[tuple[Range, ...], ...]
    chunk: Range  # the tokens of this call
    positions: Int[Tensor, "rows length"] | None = None  # in the document; only where the attention rotates or there are slopes
    frequencies: Float[Tensor, " half"] | None = None  # radians per token; only where the attention rotates
    slopes: Float[Tensor, " heads"] | None = None  # what a token of distance takes off a score; None: nothing
    kept: Kept | None = None
    _parts: dict[tuple[int, bool, int | None], list[Part]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, attention: Attention, shape: Range, positions: Tensor | None, frequencies: Tensor | None, slopes: Tensor | None = None
    ) -> Layout:
        """Of a whole batch, rows × length. A position that is not above the one before it starts a document."""
        length = shape[1]
        documents: tuple[tuple[Range, ...], ...] = (((0, length),),)
        if positions is not None:
            documents = tuple(_documents(row) for row in positions.cpu())
            if len(set(documents)) == 1:
                documents = documents[:1]
        if not attention.rotates and slopes is None:
            return cls(attention, length, documents, (0, length))
        if positions is None:
            positions = torch.arange(length)[None]
        return cls(attention, length, documents, (0, length), positions, frequencies, slopes)

    def at(self, chunk: Range, kept: Kept | None) -> Layout:
        """The same sequence, a part of it computed."""
        return replace(self, chunk=chunk, kept=kept, _parts={})

    @property
    def is_plain(self) -> bool:
        """One document, all of it, every pair as it is: what torch's own call computes."""
        whole = self.documents == (((0, self.length),),) and self.chunk == (0, self.length)
        return whole and isinstance(self.attention, Full) and not self.attention.rotates and self.slopes is None

    @property
    def windows(self) -> set[int | None]:
        """Of the layers that have asked for their parts."""
        return {window for _, _, window in self._parts}

    def parts(self, num_heads: int, causal: bool, sliding_window: int | None) -> list[Part]:
        """The regions on tensors, for a layer with so many query heads; counted from the first query of the chunk and the first key."""
        known = (num_heads, causal, sliding_window)
        if known not in self._parts:
            # A layer of the model that has a window of its own keeps it: what is less than so many tokens away, on either side.
            attention = self.attention if sliding_window is None else self.attention.narrowed(sliding_window)
            assert attention is not None, "checked when the model was built"
            self._parts[known] = self._built(attention, num_heads, causal)
        return self._parts[known]

    def _built(self, attention: Attention, num_heads: int, causal: bool) -> list[Part]:
        start, stop = self.chunk
        templates = _regions(attention, self.documents[0][0][1] - self.documents[0][0][0], num_heads, causal)
        parts = []
        for number, region in enumerate(templates):
            rows = []
            for documents in self.documents:
                found: list[Block] = []
                for first, last in documents:
                    if first < stop and last > start:
                        own = _regions(attention, last - first, num_heads, causal)[number].blocks
                        found += restricted((block.shifted(first) for block in own), self.chunk)
                rows.append(found)
            if self.slopes is None:
                parts.append(Part([self._from_chunk(row) for row in rows], region.heads, *self._rotations(region)))
            else:
                parts += self._sloping(rows, region.heads)
        return parts

    def _from_chunk(self, blocks: Iterable[Block]) -> list[Block]:
        """Queries counted from the first one of the chunk."""
        start = self.chunk[0]
        return [replace(b, queries=(b.queries[0] - start, b.queries[1] - start)) for b in blocks]

    def _sloping(self, rows: list[list[Block]], heads: Range | None) -> Iterator[Part]:
        """Keys behind the queries and keys ahead of them apart, where there are any."""
        assert self.positions is not None, "given with the slopes"
        assert self.slopes is not None
        positions = self.positions.to(self.slopes.device)
        size = _STRIP if self.slopes.device.type == "cpu" else _STRIP_ELSEWHERE
        for ahead, side in enumerate(zip(*map(behind_and_ahead, rows), strict=True)):
            if any(side):
                slopes = Slopes(self.slopes, positions[:, slice(*self.chunk)], positions[:, : self.chunk[1]], bool(ahead))
                yield Part([self._from_chunk(strips(row, size)) for row in side], heads, slopes=slopes)

    def _rotations(self, region: Region) -> tuple[Rotation | None, Rotation | None]:
        if self.positions is None or self.frequencies is None:
            return None, None
        start, stop = self.chunk
        positions = self.positions.to(self.frequencies.device)
        queries, keys = positions[:, start:stop], positions[:, :stop]
        scale = None if region.query_scale is None else region.query_scale(queries)
        query_positions = queries if region.query_positions is None else region.query_positions(queries)
        key_positions = keys if region.key_positions is None else region.key_positions(keys)
        return Rotation.of(query_positions, self.frequencies, scale), Rotation.of(key_positions, self.frequencies)


def _documents(positions: Int[Tensor, " length"]) -> tuple[Range, ...]:
    starts = (torch.nonzero(positions[1:] <= positions[:-1])[:, 0] + 1).tolist()
    return tuple(pairwise([0, *starts, len(positions)]))


@lru_cache(maxsize=4096)
def _regions(attention: Attention, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
    return attention.regions(length, num_heads, causal)
