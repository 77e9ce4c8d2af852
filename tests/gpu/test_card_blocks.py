"""One block of the score matrix on the card against one dense softmax in float64, and its gradients by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.fused import FlashBand
from elongate.context.attention.kernel.operators import Shape, block_backward, block_forward
from elongate.context.attention.kernel.tensors import Bias

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Few queries with shared keys are folded, and more than 1024 are not. Sizes that no tile divides, and more keys than queries.
SIZES = {
    "all": [(512, 512), (300, 1100), (2048, 2048)],
    "lower": [(512, 512), (1100, 1100), (2048, 2048)],
    "upper": [(512, 512), (300, 300)],
}


def dense(q: Tensor, k: Tensor, v: Tensor, shape: Shape, scale: float, bias: Bias | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp by the definition."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.mT * scale
    if bias is not None:
        scores = scores - (bias.slopes[:, None] * bias.distances[:, None])[:, :, None].double()
    i, j = torch.arange(q.shape[2], device=q.device)[:, None], torch.arange(k.shape[2], device=q.device)
    seen = {"all": j >= 0, "lower": j <= i, "upper": j >= i}[shape]
    scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (8, 8)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
def test_a_block_equals_its_definition(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, shape: Shape, biased: bool, card: torch.device
) -> None:
    draw = torch.Generator(card).manual_seed(0)

    def drawn(length: int, count: int) -> Tensor:
        # As the layers make them: heads inside tokens.
        return torch.randn(2, length, count, dim, generator=draw, device=card).to(dtype).transpose(1, 2)

    for queries, keys in SIZES[shape]:
        q, k, v = drawn(queries, heads), drawn(keys, kv_heads), drawn(keys, kv_heads)
        bias = None
        if biased:
            slopes = torch.rand(heads, generator=draw, device=card) * 0.1
            bias = Bias(slopes, torch.arange(keys, device=card).flip(0)[None])
        exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
        out, lse = dense(*exact, shape, dim**-0.5, bias)
        grad = drawn(queries, heads)
        out.backward(grad.double())
        found = block_forward(q, k, v, shape, dim**-0.5, bias)
        gradients = block_backward(grad, q, k, v, *found, shape, dim**-0.5, bias)
        expected = [out.detach(), lse.detach(), *(x.grad for x in exact)]
        errors = [relative(mine, theirs) for mine, theirs in zip((*found, *gradients), expected, strict=True)]
        assert max(errors) < TOLERANCE[dtype], f"{queries} × {keys}: output, log-sum-exp, dq, dk, dv are off by {errors}"


@pytest.mark.parametrize(("queries", "keys", "both_sides"), [(1500, 1500, False), (1500, 1500, True), (700, 1500, False)])
def test_a_window_in_one_call_equals_its_definition(queries: int, keys: int, both_sides: bool, card: torch.device) -> None:
    draw = torch.Generator(card).manual_seed(0)
    q, grad = (torch.randn(2, queries, 8, 64, generator=draw, device=card).bfloat16().transpose(1, 2) for _ in range(2))
    k, v = (torch.randn(2, keys, 2, 64, generator=draw, device=card).bfloat16().transpose(1, 2) for _ in range(2))
    band = Block((0, queries), (0, keys), "band", 300, both_sides)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    behind = torch.arange(keys - queries, keys, device=card)[:, None] - torch.arange(keys, device=card)
    seen = (behind < 300) & (behind > (-300 if both_sides else -1))
    scores = (exact[0] @ exact[1].repeat_interleave(4, dim=1).mT / 8).masked_fill(~seen, -torch.inf)
    out, lse = scores.softmax(-1) @ exact[2].repeat_interleave(4, dim=1), scores.logsumexp(-1)
    out.backward(grad.double())
    found = FlashBand.forward(q, k, v, band, 1 / 8)
    gradients = FlashBand.backward(grad, q, k, v, *found, band, 1 / 8)
    expected = [out.detach(), lse.detach(), *(x.grad for x in exact)]
    errors = [relative(mine, theirs) for mine, theirs in zip((*found, *gradients), expected, strict=True)]
    assert max(errors) < TOLERANCE[torch.bfloat16], f"output, log-sum-exp, dq, dk, dv are off by {errors}"
