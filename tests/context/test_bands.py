"""Windows as one block, for operators that compute a window in one call: the same pairs as the blocks of other operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.covering import all_pairs
from torch import Tensor
from torch.testing import assert_close

from elongate.context.attention.attention import Pattern
from elongate.context.attention.kernel import attend as kernel
from elongate.context.attention.kernel.attend import attend, attend_backward
from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.sinks import SinksPattern
from elongate.context.attention.window import WindowPattern

LENGTH = 24
POSITIONS = {
    "whole": None,
    "packed": torch.cat([torch.arange(n) for n in (9, 1, 14)])[None],
    "different rows": torch.stack([torch.cat([torch.arange(9), torch.arange(15)]), torch.arange(24)]),
}
PATTERNS: dict[str, Pattern] = {
    "window": WindowPattern(5),
    "wide": WindowPattern(30),
    "own tokens": WindowPattern(1),
    "sinks": SinksPattern(2, 5),
}
CHUNKS = [(0, 24), (0, 7), (7, 20), (23, 24)]


class DenseBand:
    """The operator by its documented meaning: windows are aligned at the last query and the last key."""

    calls = 0

    @classmethod
    def forward(cls, q: Tensor, k: Tensor, v: Tensor, band: Block, scale: float) -> tuple[Tensor, Tensor]:
        cls.calls += 1
        scores = cls._scores(q, k, band, scale)
        return scores.softmax(-1) @ cls._shared(v, q), scores.logsumexp(-1)

    @classmethod
    def backward(
        cls, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, band: Block, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = (cls._scores(q, k, band, scale) - lse[..., None]).exp()
        dscores = weights * (grad @ cls._shared(v, q).mT - (grad * out).sum(-1, keepdim=True)) * scale
        dk, dv = dscores.mT @ q, weights.mT @ grad
        return dscores @ cls._shared(k, q), *(x.unflatten(1, (k.shape[1], -1)).sum(2) for x in (dk, dv))

    @classmethod
    def _scores(cls, q: Tensor, k: Tensor, band: Block, scale: float) -> Tensor:
        queries = torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None]
        behind = queries - torch.arange(k.shape[2])
        seen = (behind < band.width) & (behind > (-band.width if band.both_sides else -1))
        return (q @ cls._shared(k, q).mT * scale).masked_fill(~seen, -torch.inf)

    @staticmethod
    def _shared(x: Tensor, q: Tensor) -> Tensor:
        return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


@pytest.mark.parametrize(("pattern", "documents", "chunk", "causal"), all_pairs([*PATTERNS], [*POSITIONS], CHUNKS, [True, False]))
def test_bands_see_the_same_pairs(
    pattern: str, documents: str, chunk: tuple[int, int], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not causal and (pattern == "sinks" or chunk != (0, LENGTH)):
        causal = True  # neither exists
    positions = POSITIONS[documents]
    rows = 1 if positions is None else len(positions)
    layout = Layout.for_batch(PATTERNS[pattern], (rows, LENGTH), positions, torch.ones(4, dtype=torch.float64) / 7)
    regions = layout.for_chunk(chunk, None).batched_regions(4, causal, None)
    draw = torch.Generator().manual_seed(0)
    q, grad = (torch.randn(rows, 4, chunk[1] - chunk[0], 8, generator=draw, dtype=torch.float64) for _ in range(2))
    k, v = (torch.randn(rows, 2, chunk[1], 8, generator=draw, dtype=torch.float64) for _ in range(2))

    def computed() -> tuple[Tensor, ...]:
        out, lse = attend(q, k, v, regions, 0.3)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        return out, lse, attend_backward(grad, q, k, v, regions, 0.3, out, lse, grad_k, grad_v), grad_k, grad_v

    expected = computed()
    dense: Any = type("Counted", (DenseBand,), {"calls": 0})
    monkeypatch.setattr(kernel, "computes_bands", lambda *_: True)
    monkeypatch.setattr(kernel, "FlashBand", dense)
    assert_close(computed(), expected, rtol=0, atol=1e-12)
    assert dense.calls > 0


def test_a_bidirectional_chunk_is_not_one_band() -> None:
    layout = Layout.for_batch(WindowPattern(5), (1, LENGTH), None, None)
    (region,) = layout.for_chunk((0, 7), None).batched_regions(4, False, None)
    assert region.bands is None
