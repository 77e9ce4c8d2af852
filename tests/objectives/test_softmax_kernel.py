"""The Triton kernel of the fused loss, interpreted on the CPU (`make test-kernels`), against its definition."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

from elongate.objectives.fused_softmax import loss_and_gradient

INTERPRETED = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(not INTERPRETED, reason="needs triton and TRITON_INTERPRET=1: make test-kernels")
@pytest.mark.parametrize("block", [16, 64])  # a row in several blocks, the last one incomplete; in one
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_computes_its_definition(dtype: torch.dtype, block: int) -> None:
    from elongate.objectives.fused_softmax_kernel import softmax_kernel

    draw = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(6, 50, generator=draw)).to(dtype)
    targets = torch.tensor([0, 49, 15, 16, 31, 7])
    weights = torch.rand(6, generator=draw)
    loss, gradient = loss_and_gradient(logits.clone(), targets, weights)
    losses = torch.empty(6)
    softmax_kernel[(6,)](logits, targets, weights, losses, logits.stride(0), 50, block=block)
    assert losses.sum().item() == pytest.approx(loss.item(), rel=1e-5)
    assert (logits - gradient).abs().max() <= (1e-6 if dtype is torch.float32 else 4e-3)
