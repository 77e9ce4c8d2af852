"""Verifies that an attention acts, by comparing the kernel in a layout with rows of the dense matrix."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from elongate.context.attention.attention import Region
from elongate.context.attention.kernel.attend import Rotation, attend
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.kernel.operators import operator_name

_QUERIES = 8  # rows of the matrix that are computed densely


def verify_attention(
    layout: Layout,
    heads: int,
    kv_heads: int,
    dim: int,
    causal: bool,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Returns the share of all pairs that is computed, and the largest error of the kernel for the last queries.

    The error is that of float32. `dtype` is what the network computes attention in: torch's operator for it is returned, too.
    Raises `AssertionError` if the error is too large, and `ConfigError` if the operator that is forced cannot run.
    """
    operator = operator_name(device, dtype, dim, layout.length, layout.slopes is not None)
    regions = layout.pattern.regions(layout.length, heads, causal)
    start = max(0, layout.length - _QUERIES)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, heads, layout.length - start, dim, generator=generator).to(device)
    k, v = (torch.randn(1, kv_heads, layout.length, dim, generator=generator).to(device) for _ in range(2))
    batched = layout.for_chunk((start, layout.length), None).batched_regions(heads, causal, None)
    out, _ = attend(q, k, v, batched, dim**-0.5)
    expected = _dense(q.double(), k.double(), v.double(), regions, layout)
    error = float((out - expected).abs().max())
    if not error < 1e-4:
        raise AssertionError(f"attention {layout.pattern.word} is not active: the kernel differs from its definition by {error:.1e}")
    pairs = sum(num_pairs(region, heads) for region in regions)
    whole = heads * (layout.length * (layout.length + 1) // 2 if causal else layout.length**2)
    return {"word": layout.pattern.word, "length": layout.length, "pairs_ratio": pairs / whole, "output_error": error, "operator": operator}


def num_pairs(region: Region, heads: int) -> int:
    """Pairs of query and key, over all heads of a layer."""
    start, stop = region.heads or (0, heads)
    total = 0
    for block in region.blocks:
        rows, columns = block.queries[1] - block.queries[0], block.keys[1] - block.keys[0]
        total += rows * columns if block.shape == "all" else rows * (rows + 1) // 2
    return total * (stop - start)


def _dense(
    q: Float[Tensor, "1 heads queries dim"],
    k: Float[Tensor, "1 kv_heads keys dim"],
    v: Float[Tensor, "1 kv_heads keys dim"],
    regions: tuple[Region, ...],
    layout: Layout,
) -> Float[Tensor, "1 heads queries dim"]:
    """Softmax over the keys that each of the last queries of a sequence sees."""
    heads, first = q.shape[1], k.shape[2] - q.shape[2]
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    scores = torch.full((1, heads, q.shape[2], k.shape[2]), -torch.inf, dtype=torch.float64, device=q.device)
    positions = torch.arange(k.shape[2], device=q.device)
    for region in regions:
        own = slice(*(region.heads or (0, heads)))
        queries, keys = _rotated(q, k, region, positions, layout)
        products = queries[:, own] @ keys[:, own].mT * q.shape[-1] ** -0.5
        if layout.slopes is not None:
            products = products - layout.slopes[own, None, None] * (positions[first:, None] - positions).abs()
        scores[:, own] = torch.where(_seen_pairs(region, positions, first), products, scores[:, own])
    return scores.softmax(-1) @ v


def _seen_pairs(region: Region, positions: Int[Tensor, " keys"], first: int) -> Bool[Tensor, "queries keys"]:
    """The pairs in the blocks of a region, for the queries from `first` on."""
    seen = torch.zeros(len(positions) - first, len(positions), dtype=torch.bool, device=positions.device)
    for block in region.blocks:
        rows, columns = positions[first:, None] - block.queries[0], positions - block.keys[0]
        inside = (rows >= 0) & (rows < block.queries[1] - block.queries[0])
        inside = inside & (columns >= 0) & (columns < block.keys[1] - block.keys[0])
        seen |= inside & {"all": inside, "lower": columns <= rows, "upper": columns >= rows}[block.shape]
    return seen


def _rotated(q: Tensor, k: Tensor, region: Region, positions: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Queries and keys as the region sees them."""
    if layout.frequencies is None:
        return q, k
    frequencies = layout.frequencies.double()
    key_positions = positions[None]
    query_positions = key_positions[:, k.shape[2] - q.shape[2] :]
    scale = None if region.query_scale is None else region.query_scale(query_positions)
    if region.query_positions is not None:
        query_positions = region.query_positions(query_positions)
    if region.key_positions is not None:
        key_positions = region.key_positions(key_positions)
    queries = Rotation.from_positions(query_positions, frequencies, scale).apply(q)
    return queries, Rotation.from_positions(key_positions, frequencies).apply(k)
