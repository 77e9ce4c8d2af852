"""One kernel for all attentions: the blocks of a region through torch's fused operators, merged exactly by their log-sum-exp.

The operators return the log-sum-exp of their scores and take it back, with the output, in the backward pass. Given those of the whole,
each block gives its own share of the gradients (Dao 2023, arXiv:2307.08691, equations for the backward pass): no part is computed twice
and no mask of length × length exists. Keys and values are never repeated for the query heads that share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elongate.context.attention.kernel.blocks import Block, Range
from elongate.context.attention.kernel.operators import Bias, Keys, LogSumExp, Outputs, Queries, Values, block_backward, block_forward


@dataclass(frozen=True)
class Rotation:
    """Turns pairs of dimensions (i, i + half) by an angle, further dimensions not, and scales all of them."""

    cosine: Float[Tensor, "#batch 1 length half"]
    sine: Float[Tensor, "#batch 1 length half"]
    scale: Float[Tensor, "#batch 1 length 1"] | None = None  # None: 1; cosine and sine have it in them

    @classmethod
    def of(cls, positions: Tensor, frequencies: Float[Tensor, " half"], scale: Tensor | None = None) -> Rotation:
        """Positions of the tokens, batch × length. Angles are computed in float32 at least: bfloat16 is wrong by up to π at 4k."""
        angles = positions[:, None, :, None].to(frequencies.dtype) * frequencies
        if scale is None:
            return cls(angles.cos(), angles.sin())
        factor = scale[:, None, :, None].to(frequencies.dtype)
        return cls(angles.cos() * factor, angles.sin() * factor, factor)

    def turn(self, x: Float[Tensor, "batch heads length dim"], back: bool = False) -> Float[Tensor, "batch heads length dim"]:
        """`back` is the transpose: what a gradient needs."""
        half = self.cosine.shape[-1]
        sine = -self.sine if back else self.sine
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        scaled = rest if self.scale is None else rest * self.scale
        return torch.cat([y.to(x.dtype) for y in (a * self.cosine - b * sine, b * self.cosine + a * sine, scaled)], dim=-1)

    def __getitem__(self, index: tuple[slice, slice]) -> Rotation:
        """Rows and tokens."""
        rows, tokens = index
        rows = slice(None) if len(self.cosine) == 1 else rows
        scale = None if self.scale is None else self.scale[rows, :, tokens]
        return Rotation(self.cosine[rows, :, tokens], self.sine[rows, :, tokens], scale)


@dataclass(frozen=True)
class Slopes:
    """Takes slope · |i - j| off the score of the query at position i and the key at position j (Press et al. 2021, arXiv:2108.12409).

    On one side of the query |i - j| = |i - c| - |c - j| with any c between them, signs kept: the operators are given what depends on
    the key, and what depends on the query moves their log-sum-exp. c is the key of the block that is nearest to the queries: numbers
    stay small, and are rounded little, where weights are large.
    """

    slopes: Float[Tensor, " heads"]  # above 0
    queries: Int[Tensor, "#batch queries"]  # positions
    keys: Int[Tensor, "#batch keys"]
    ahead: bool  # all keys come after the queries; else none does

    def of(self, block: Block, rows: slice, heads: slice) -> tuple[Bias, Float[Tensor, "#batch heads queries"]]:
        """What a block is given, and what is to be taken off its log-sum-exp."""
        queries, keys = (
            x[rows if len(x) > 1 else slice(None), slice(*tokens)] for x, tokens in ((self.queries, block.queries), (self.keys, block.keys))
        )
        nearest = keys[:, :1] if self.ahead else keys[:, -1:]
        slopes = self.slopes[heads]
        beyond = nearest - queries if self.ahead else queries - nearest
        return Bias(slopes, (keys - nearest).abs()), slopes[:, None] * beyond[:, None]


@dataclass(frozen=True)
class Part:
    """A region with the blocks of every row of the batch, and its rotations and slopes as tensors."""

    rows: Sequence[Sequence[Block]]  # one list of blocks a row, or one for all rows
    heads: Range | None = None
    queries: Rotation | None = None
    keys: Rotation | None = None
    slopes: Slopes | None = None


@dataclass(frozen=True)
class _Piece:
    """What one call of an operator reads."""

    part: Part
    rows: slice
    heads: slice
    kv_heads: slice
    blocks: Sequence[Block]


def _pieces(parts: Sequence[Part], heads: int, kv_heads: int) -> Iterator[_Piece]:
    group = heads // kv_heads
    for part in parts:
        for start, stop in _whole_groups(part.heads or (0, heads), group):
            for number, blocks in enumerate(part.rows):
                rows = slice(None) if len(part.rows) == 1 else slice(number, number + 1)
                yield _Piece(part, rows, slice(start, stop), slice(start // group, -(-stop // group)), blocks)


def _whole_groups(heads: Range, group: int) -> Iterator[Range]:
    """The heads, cut so that each cut holds whole groups (heads that share keys) or a part of one."""
    start, stop = heads
    first, last = min(-(-start // group) * group, stop), max(stop // group * group, start)
    for cut in ((start, first), (first, last), (max(last, first), stop)):
        if cut[0] < cut[1]:
            yield cut


def attend(q: Queries, k: Keys, v: Values, parts: Sequence[Part], scale: float) -> tuple[Outputs, LogSumExp]:
    """Softmax attention over the union of the parts, and the log-sum-exp of each query's scores."""
    wide = torch.promote_types(q.dtype, torch.float32)
    batch, heads, length, _ = q.shape
    out = lse = torch.empty(0)
    for piece in _pieces(parts, heads, k.shape[1]):
        queries, keys, key_start = _turned(q, k, piece)
        for block in piece.blocks:
            bias, moved = _bias(piece, block, wide)
            part_out, part_lse = block_forward(
                queries[:, :, slice(*block.queries)],
                keys[:, :, block.keys[0] - key_start : block.keys[1] - key_start],
                v[piece.rows, piece.kv_heads, slice(*block.keys)],
                block.shape,
                scale,
                bias,
            )
            if moved is not None:
                part_lse = part_lse - moved
            if part_out.shape[:3] == (batch, heads, length) and _is_alone(block, parts):
                return part_out, part_lse
            if not out.numel():
                out = torch.zeros(batch, length, heads, v.shape[-1], dtype=wide, device=q.device).transpose(1, 2)
                lse = torch.full((batch, length, heads), -torch.inf, dtype=wide, device=q.device).transpose(1, 2)
            at = (piece.rows, piece.heads, slice(*block.queries))
            merged = torch.logaddexp(lse[at], part_lse)
            out[at].mul_((lse[at] - merged).exp()[..., None]).add_(part_out.to(wide).mul_((part_lse - merged).exp()[..., None]))
            lse[at] = merged
    return out.to(q.dtype), lse


def _is_alone(block: Block, parts: Sequence[Part]) -> bool:
    return [list(blocks) for part in parts for blocks in part.rows if blocks] == [[block]]


def attend_backward(
    grad: Outputs,
    q: Queries,
    k: Keys,
    v: Values,
    parts: Sequence[Part],
    scale: float,
    out: Outputs,
    lse: LogSumExp,
    grad_k: Keys,
    grad_v: Values,
) -> Queries:
    """The gradient of the queries; those of keys and values are added to `grad_k` and `grad_v`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    grad_q = torch.zeros(q.shape, dtype=wide, device=q.device)
    for piece in _pieces(parts, q.shape[1], k.shape[1]):
        queries, keys, key_start = _turned(q, k, piece)
        for block in piece.blocks:
            at = (piece.rows, piece.heads, slice(*block.queries))
            key_at = (piece.rows, piece.kv_heads, slice(*block.keys))
            bias, moved = _bias(piece, block, wide)
            dq, dk, dv = block_backward(
                grad[at],
                queries[:, :, slice(*block.queries)],
                keys[:, :, block.keys[0] - key_start : block.keys[1] - key_start],
                v[key_at],
                out[at],
                lse[at] if moved is None else lse[at] + moved,
                block.shape,
                scale,
                bias,
            )
            if piece.part.queries is not None:
                dq = piece.part.queries[piece.rows, slice(*block.queries)].turn(dq, back=True)
            if piece.part.keys is not None:
                dk = piece.part.keys[piece.rows, slice(*block.keys)].turn(dk, back=True)
            grad_q[at] += dq
            grad_k[key_at] += dk
            grad_v[key_at] += dv
    return grad_q.to(q.dtype)


def _bias(piece: _Piece, block: Block, dtype: torch.dtype) -> tuple[Bias | None, Tensor | None]:
    if piece.part.slopes is None:
        return None, None
    bias, moved = piece.part.slopes.of(block, piece.rows, piece.heads)
    return bias, moved.to(dtype)


def _turned(q: Tensor, k: Tensor, piece: _Piece) -> tuple[Tensor, Tensor, int]:
    """Queries and keys as the piece sees them, and the first key that is there: what no block reads is not turned."""
    queries, keys = q[piece.rows, piece.heads], k[piece.rows, piece.kv_heads]
    if piece.part.queries is not None:
        queries = piece.part.queries[piece.rows, slice(None)].turn(queries)
    if piece.part.keys is None or not piece.blocks:
        return queries, keys, 0
    seen = slice(min(block.keys[0] for block in piece.blocks), max(block.keys[1] for block in piece.blocks))
    return queries, piece.part.keys[piece.rows, seen].turn(keys[:, :, seen]), seen.start
