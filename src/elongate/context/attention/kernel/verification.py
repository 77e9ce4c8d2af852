"""Proof that an attention is on: what the kernel computes in a layout, against the definition, row by row of the dense matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elongate.context.attention.attention import Region
from elongate.context.attention.kernel.attend import Rotation, attend
from elongate.context.attention.kernel.layout import Layout

_QUERIES = 8  # rows of the matrix that are computed densely


def prove(layout: Layout, heads: int, kv_heads: int, dim: int, causal: bool, device: torch.device) -> dict[str, Any]:
    """The share of all pairs that is computed, and how far the kernel is from the definition for the last queries of one sequence.

    Raises `AssertionError` where it is too far: the attention is not what it says.
    """
    regions = layout.attention.regions(layout.length, heads, causal)
    start = max(0, layout.length - _QUERIES)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, heads, layout.length - start, dim, generator=generator).to(device)
    k, v = (torch.randn(1, kv_heads, layout.length, dim, generator=generator).to(device) for _ in range(2))
    out, _ = attend(q, k, v, layout.at((start, layout.length), None).parts(heads, causal, None), dim**-0.5)
    expected = _dense(q.double(), k.double(), v.double(), regions, layout)
    error = float((out - expected).abs().max())
    if not error < 1e-4:
        raise AssertionError(f"{layout.attention.word} is not on: the kernel is off its definition by {error:.1e}")
    pairs = sum(num_pairs(region, heads) for region in regions)
    whole = heads * (layout.length * (layout.length + 1) // 2 if causal else layout.length**2)
    return {"word": layout.attention.word, "length": layout.length, "pairs_ratio": pairs / whole, "output_error": error}


def num_pairs(region: Region, heads: int) -> int:
    """Pairs of query and key, over all heads of a layer."""
    start, stop = region.heads or (0, heads)
    total = 0
    for block in region.blocks:
        rows, columns = block.queries[1] - block.queries[0], block.keys[1] - block.keys[0]
        total += rows * columns if block.shape == "all" else rows * (rows + 1) // 2
    return total * (stop - start)


def _dense(q: Tensor, k: Tensor, v: Tensor, regions: tuple[Region, ...], layout: Layout) -> Tensor:
    """Softmax over the keys that each query sees, in float64, for the last queries of a sequence."""
    heads, first = q.shape[1], k.shape[2] - q.shape[2]
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    scores = torch.full((1, heads, q.shape[2], k.shape[2]), -torch.inf, dtype=torch.float64, device=q.device)
    numbers = torch.arange(k.shape[2], device=q.device)
    for region in regions:
        seen = torch.zeros(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        for block in region.blocks:
            rows, columns = numbers[first:, None] - block.queries[0], numbers - block.keys[0]
            inside = (rows >= 0) & (rows < block.queries[1] - block.queries[0])
            inside = inside & (columns >= 0) & (columns < block.keys[1] - block.keys[0])
            seen |= inside & {"all": inside, "lower": columns <= rows, "upper": columns >= rows}[block.shape]
        queries, keys = q, k
        if layout.frequencies is not None:
            positions = numbers[None]
            here = positions[:, first:]
            frequencies = layout.frequencies.double()
            scale = None if region.query_scale is None else region.query_scale(here)
            there = positions if region.key_positions is None else region.key_positions(positions)
            queries = Rotation.of(here if region.query_positions is None else region.query_positions(here), frequencies, scale).turn(q)
            keys = Rotation.of(there, frequencies).turn(k)
        own = slice(*(region.heads or (0, heads)))
        products = queries[:, own] @ keys[:, own].mT * q.shape[-1] ** -0.5
        if layout.slopes is not None:
            products = products - layout.slopes[own, None, None] * (numbers[first:, None] - numbers).abs()
        scores[:, own] = torch.where(seen, products, scores[:, own])
    return scores.softmax(-1) @ v
