"""The loss on the card, without float32 logits, against float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from elongate.models.gradient_sink import GradientSink
from elongate.models.head import Head
from elongate.objectives.cross_entropy import summed_cross_entropy

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("sink", [None, GradientSink()], ids=["autograd", "sink"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("vocab", "dim", "tokens"), [(5003, 256, 4500), (128256, 64, 2100)])  # more than one piece
def test_the_loss_and_its_gradients(
    vocab: int, dim: int, tokens: int, weighted: bool, sink: GradientSink | None, card: torch.device
) -> None:
    draw = torch.Generator(card).manual_seed(0)
    head = (0.2 * torch.randn(vocab, dim, generator=draw, device=card)).requires_grad_()
    states = torch.randn(tokens, dim, generator=draw, device=card).bfloat16().requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=draw, device=card)
    weights = torch.rand(tokens, generator=draw, device=card) if weighted else None
    exact = [x.detach().bfloat16().double().requires_grad_() for x in (states, head)]
    expected = torch.zeros((), dtype=torch.float64, device=card)
    for start in range(0, tokens, 500):
        at = slice(start, start + 500)
        losses = F.cross_entropy(exact[0][at] @ exact[1].mT, targets[at], reduction="none")
        part = losses.sum() if weights is None else losses @ weights[at].double()
        part.backward()
        expected += part.detach()
    loss = summed_cross_entropy(states, Head(head), targets, weights, "bf16", sink)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for found, theirs in zip((states, head), exact, strict=True):
        assert found.grad is not None
        assert (found.grad.double() - theirs.grad).norm() < 1e-2 * theirs.grad.norm()
