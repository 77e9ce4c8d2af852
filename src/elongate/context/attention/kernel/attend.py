"""One kernel for all attentions: torch's fused operators run the blocks, whose results are merged by log-sum-exp.

The operators return the log-sum-exp of their scores, and accept it, with the output, in the backward pass. Given
those of the whole attention, each block yields its own share of the gradients (Dao 2023, arXiv:2307.08691,
equations of the backward pass): nothing is computed twice and no mask of length × length exists. Keys and values
are never repeated for the query heads that share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elongate.context.attention.kernel.blocks import Block, Range
from elongate.context.attention.kernel.fused import FlashBand
from elongate.context.attention.kernel.operators import block_backward, block_forward, computes_bands
from elongate.context.attention.kernel.tensors import Bias, Keys, LogSumExp, Outputs, Queries, Values

Sink = Float[Tensor, " heads"]  # the score of a key without content, in every query of a head


@dataclass(frozen=True)
class Rotation:
    """Rotates pairs of dimensions (i, i + half) by an angle, keeps further dimensions, and scales all of them."""

    cosine: Float[Tensor, "#batch 1 length half"]  # multiplied by the scale
    sine: Float[Tensor, "#batch 1 length half"]  # multiplied by the scale
    scale: Float[Tensor, "#batch 1 length 1"] | None = None  # None: 1

    @classmethod
    def from_positions(
        cls,
        positions: Int[Tensor, "#batch length"],
        frequencies: Float[Tensor, " half"],
        scale: Float[Tensor, "#batch length"] | None = None,
    ) -> Rotation:
        """Computes angles in at least float32: in bfloat16 they are wrong by up to π at 4k tokens."""
        angles = positions[:, None, :, None].to(frequencies.dtype) * frequencies
        if scale is None:
            return cls(angles.cos(), angles.sin())
        factor = scale[:, None, :, None].to(frequencies.dtype)
        return cls(angles.cos() * factor, angles.sin() * factor, factor)

    def apply(self, x: Float[Tensor, "batch heads length dim"], transposed: bool = False) -> Float[Tensor, "batch heads length dim"]:
        """Rotates `x`; `transposed` applies the transpose, which maps gradients back."""
        half = self.cosine.shape[-1]
        sine = -self.sine if transposed else self.sine
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        scaled = rest if self.scale is None else rest * self.scale
        rotated = (a * self.cosine - b * sine, b * self.cosine + a * sine, scaled)
        return torch.cat([y.to(x.dtype) for y in rotated], dim=-1)

    def __getitem__(self, index: tuple[slice, slice]) -> Rotation:
        """Selects rows and tokens."""
        rows, tokens = index
        rows = slice(None) if len(self.cosine) == 1 else rows
        scale = None if self.scale is None else self.scale[rows, :, tokens]
        return Rotation(self.cosine[rows, :, tokens], self.sine[rows, :, tokens], scale)


@dataclass(frozen=True)
class Slopes:
    """Subtracts slope · |i - j| from the score of query position i and key position j (arXiv:2108.12409).

    All keys are on one side of the queries, so the distance is a sum: for keys behind, i - j = (i - c) + (c - j).
    The operator gets the term of the key as a bias; the term of the query shifts the log-sum-exp. c is the key of
    the block nearest to the queries, so that the bias is small, and rounded little, where weights are large.
    """

    slopes: Float[Tensor, " heads"]  # above 0
    queries: Int[Tensor, "#batch queries"]  # positions
    keys: Int[Tensor, "#batch keys"]  # positions
    ahead: bool  # all keys are after the queries; otherwise none is

    def for_block(self, block: Block, rows: slice, heads: slice) -> tuple[Bias, Float[Tensor, "#batch heads queries"]]:
        """The bias of a block, and the amount to subtract from its log-sum-exp."""
        queries = self.queries[rows if len(self.queries) > 1 else slice(None), slice(*block.queries)]
        keys = self.keys[rows if len(self.keys) > 1 else slice(None), slice(*block.keys)]
        nearest = keys[:, :1] if self.ahead else keys[:, -1:]
        slopes = self.slopes[heads]
        distances = nearest - queries if self.ahead else queries - nearest
        return Bias(slopes, (keys - nearest).abs()), slopes[:, None] * distances[:, None]


@dataclass(frozen=True)
class BatchedRegion:
    """A region with the blocks of every row of the batch, and its rotations and slopes as tensors."""

    rows: Sequence[Sequence[Block]]  # one list of blocks per row, or one for all rows
    heads: Range | None = None  # query heads; None: all
    queries: Rotation | None = None
    keys: Rotation | None = None
    slopes: Slopes | None = None
    bands: Sequence[Sequence[Block]] | None = None  # the same rows, with each window as one block


@dataclass(frozen=True)
class KernelCall:
    """The part of a region that one slice of the tensors covers: rows and heads with the same blocks."""

    region: BatchedRegion
    rows: slice
    heads: slice
    kv_heads: slice
    blocks: Sequence[Block]

    def query_index(self, block: Block) -> tuple[slice, slice, slice]:
        """Index of the block's queries in a tensor batch × heads × length × dim."""
        return self.rows, self.heads, slice(*block.queries)

    def key_index(self, block: Block) -> tuple[slice, slice, slice]:
        """Index of the block's keys in a tensor batch × kv_heads × length × dim."""
        return self.rows, self.kv_heads, slice(*block.keys)

    def block_bias(self, block: Block, dtype: torch.dtype) -> tuple[Bias | None, Tensor | None]:
        """The bias of a block and the amount to subtract from its log-sum-exp, if the region has slopes."""
        if self.region.slopes is None:
            return None, None
        bias, shift = self.region.slopes.for_block(block, self.rows, self.heads)
        return bias, shift.to(dtype)

    def rotate(
        self, q: Queries, k: Keys
    ) -> tuple[Float[Tensor, "rows own_heads queries dim"], Float[Tensor, "rows own_kv_heads own_keys dim"], int]:
        """Queries and keys as the region sees them, and the first key: keys that no block reads are left out."""
        queries, keys = q[self.rows, self.heads], k[self.rows, self.kv_heads]
        if self.region.queries is not None:
            queries = self.region.queries[self.rows, slice(None)].apply(queries)
        if self.region.keys is None:
            return queries, keys, 0
        seen = slice(min(block.keys[0] for block in self.blocks), max(block.keys[1] for block in self.blocks))
        return queries, self.region.keys[self.rows, seen].apply(keys[:, :, seen]), seen.start


def _kernel_calls(regions: Sequence[BatchedRegion], q: Queries, k: Keys, v: Values, softcap: float | None) -> Iterator[KernelCall]:
    """One call per region, row and range of heads that has blocks."""
    heads, kv_heads, has_bands = q.shape[1], k.shape[1], softcap is None and computes_bands(q, v)
    group = heads // kv_heads
    for region in regions:
        for start, stop in _whole_groups(region.heads or (0, heads), group):
            for number, blocks in enumerate(region.bands if has_bands and region.bands else region.rows):
                rows = slice(None) if len(region.rows) == 1 else slice(number, number + 1)
                if blocks:
                    yield KernelCall(region, rows, slice(start, stop), slice(start // group, -(-stop // group)), blocks)


def _whole_groups(heads: Range, group: int) -> Iterator[Range]:
    """Cuts a range of heads into whole groups (heads that share keys) and parts of one group."""
    start, stop = heads
    first, last = min(-(-start // group) * group, stop), max(stop // group * group, start)
    for cut in ((start, first), (first, last), (max(last, first), stop)):
        if cut[0] < cut[1]:
            yield cut


def attend(
    q: Queries,
    k: Keys,
    v: Values,
    regions: Sequence[BatchedRegion],
    scale: float,
    softcap: float | None = None,
    sink: Sink | None = None,
) -> tuple[Outputs, LogSumExp]:
    """Softmax attention over the union of the regions, and the log-sum-exp of each query's scores.

    A sink takes part in the softmax as a key with its own score and a value of zero (gpt-oss, arXiv:2508.10925,
    section 2.2). Its part in the gradients of queries, keys and values is in output and log-sum-exp.
    """
    out, lse = _attend_to_keys(q, k, v, regions, scale, softcap)
    if sink is None:
        return out, lse
    whole = torch.logaddexp(lse, sink.to(lse.dtype)[:, None])
    return (out * (lse - whole).exp()[..., None]).to(q.dtype), whole


def sink_gradient(grad: Outputs, out: Outputs, lse: LogSumExp, sink: Sink) -> Sink:
    """The gradient of a sink, given output and log-sum-exp of the whole attention."""
    share = (grad.to(lse.dtype) * out).sum(-1)
    return -(share * (sink.to(lse.dtype)[:, None] - lse).exp()).sum((0, 2)).to(sink.dtype)


def _attend_to_keys(
    q: Queries, k: Keys, v: Values, regions: Sequence[BatchedRegion], scale: float, softcap: float | None
) -> tuple[Outputs, LogSumExp]:
    wide = torch.promote_types(q.dtype, torch.float32)
    calls = list(_kernel_calls(regions, q, k, v, softcap))
    blocks = _block_outputs(q, k, v, calls, scale, softcap)
    if sum(len(call.blocks) for call in calls) == 1:
        # The block is the whole attention, because every query sees a key: there is nothing to merge.
        _, out, lse = next(blocks)
        assert out.shape[:3] == q.shape[:3]
        return out, lse
    batch, heads, length, _ = q.shape
    out = torch.zeros(batch, length, heads, v.shape[-1], dtype=wide, device=q.device).transpose(1, 2)
    lse = torch.full((batch, length, heads), -torch.inf, dtype=wide, device=q.device).transpose(1, 2)
    for at, block_out, block_lse in blocks:
        merged = torch.logaddexp(lse[at], block_lse)
        old_share, new_share = ((x - merged).exp()[..., None] for x in (lse[at], block_lse))
        out[at].mul_(old_share).add_(block_out.to(wide).mul_(new_share))
        lse[at] = merged
    return out.to(q.dtype), lse


def _block_outputs(
    q: Queries, k: Keys, v: Values, calls: Sequence[KernelCall], scale: float, softcap: float | None
) -> Iterator[tuple[tuple[slice, slice, slice], Tensor, Tensor]]:
    """Each block's queries, as an index of `q`, with its own output and log-sum-exp."""
    wide = torch.promote_types(q.dtype, torch.float32)
    for call in calls:
        queries, keys, first_key = call.rotate(q, k)
        for block in call.blocks:
            bias, shift = call.block_bias(block, wide)
            q_block, v_block = queries[:, :, slice(*block.queries)], v[call.key_index(block)]
            k_block = keys[:, :, block.keys[0] - first_key : block.keys[1] - first_key]
            if block.shape == "band":
                out, lse = FlashBand.forward(q_block, k_block, v_block, block, scale)
            else:
                out, lse = block_forward(q_block, k_block, v_block, block.shape, scale, bias, softcap)
            yield call.query_index(block), out, lse if shift is None else lse - shift


def attend_backward(
    grad: Outputs,
    q: Queries,
    k: Keys,
    v: Values,
    regions: Sequence[BatchedRegion],
    scale: float,
    out: Outputs,
    lse: LogSumExp,
    grad_k: Keys,
    grad_v: Values,
    softcap: float | None = None,
) -> Queries:
    """Returns the gradient of the queries, and adds those of keys and values to `grad_k` and `grad_v`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    calls = list(_kernel_calls(regions, q, k, v, softcap))
    is_one = sum(len(call.blocks) for call in calls) == 1  # the block is the whole attention
    grad_q = grad if is_one else torch.zeros(q.shape, dtype=wide, device=q.device)
    for call in calls:
        queries, keys, first_key = call.rotate(q, k)
        for block in call.blocks:
            at, key_at = call.query_index(block), call.key_index(block)
            bias, shift = call.block_bias(block, wide)
            q_block, k_block = queries[:, :, slice(*block.queries)], keys[:, :, block.keys[0] - first_key : block.keys[1] - first_key]
            given = q_block, k_block, v[key_at], out[at], lse[at] if shift is None else lse[at] + shift
            if block.shape == "band":
                dq, dk, dv = FlashBand.backward(grad[at], *given, block, scale)
            else:
                dq, dk, dv = block_backward(grad[at], *given, block.shape, scale, bias, softcap)
            if call.region.queries is not None:
                dq = call.region.queries[call.rows, slice(*block.queries)].apply(dq, transposed=True)
            if call.region.keys is not None:
                dk = call.region.keys[call.rows, slice(*block.keys)].apply(dk, transposed=True)
            grad_k[key_at] += dk
            grad_v[key_at] += dv
            if is_one:
                grad_q = dq
            else:
                grad_q[at] += dq
    return grad_q.to(q.dtype)
