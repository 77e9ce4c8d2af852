"""The head applied to a few tokens at a time, compared with the whole matrix of logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from elongate.models.gradient_sink import GradientSink
from elongate.models.head import Adjustment, Head
from elongate.objectives import cross_entropy
from elongate.objectives.cross_entropy import summed_cross_entropy
from elongate.objectives.fused_softmax import loss_and_gradient
from elongate.scoring import token_loss
from elongate.scoring.token_loss import token_cross_entropy


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("vocab", [11, 2000])
@pytest.mark.parametrize(("weighted", "scale", "cap"), [("none", 1.0, None), ("some", 0.0625, None), ("all", 1.0, 3.0), ("some", 4.0, 3.0)])
def test_sum_and_gradients_equal_those_of_whole_logits(
    with_bias: bool, vocab: int, weighted: str, scale: float, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cross_entropy, token_loss):
        monkeypatch.setattr(module, "LOGIT_TOKENS", 7)
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 10, 8, dtype=torch.float64, generator=draw, requires_grad=True)
    weight = torch.randn(vocab, 8, dtype=torch.float64, generator=draw, requires_grad=True)
    bias = torch.randn(vocab, dtype=torch.float64, generator=draw, requires_grad=True) if with_bias else None
    targets = torch.randint(vocab, (3, 10), generator=draw)
    weights = {"none": None, "some": torch.rand(30, dtype=torch.float64, generator=draw), "all": torch.zeros(30).double()}[weighted]
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]

    head = Head(weight, bias, Adjustment(scale, cap))
    ours = summed_cross_entropy(hidden.flatten(0, 1), head, targets.flatten(), weights)
    gradients = torch.autograd.grad(ours, leaves)
    logits = scale * F.linear(hidden, weight, bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 10)
    expected = each.sum() if weights is None else each.flatten() @ weights
    assert_close(ours.double(), expected, rtol=1e-12, atol=1e-12)
    for ours_, theirs in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        assert_close(ours_, theirs, rtol=1e-9, atol=1e-9)
    assert_close(token_cross_entropy(hidden, head, targets), each.detach(), rtol=1e-12, atol=1e-12)


def test_bf16_agrees_with_fp32_to_its_own_precision() -> None:
    draw = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(size, 16, generator=draw, requires_grad=True) for size in (1400, 300))
    targets, weights = torch.randint(300, (1400,), generator=draw), torch.rand(1400, generator=draw)
    exact = summed_cross_entropy(hidden, Head(weight, None), targets, weights)
    rounded = summed_cross_entropy(hidden, Head(weight, None), targets, weights, "bf16")
    assert_close(rounded, exact, rtol=5e-3, atol=0)
    wholes, halves = (torch.autograd.grad(loss, (hidden, weight)) for loss in (exact, rounded))
    for whole, half in zip(wholes, halves, strict=True):
        assert (whole - half).norm() < 1e-2 * whole.norm()


def test_a_head_that_is_not_trained_gets_no_gradient() -> None:
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4)
    summed_cross_entropy(hidden, Head(weight, None), torch.zeros(5, dtype=torch.long)).backward()
    assert weight.grad is None
    assert hidden.grad is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trained", [True, False])
def test_a_sink_receives_the_gradient_of_the_head_in_the_forward_pass(precision: str, trained: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(1400, 16, generator=draw, requires_grad=True)
    parts = [torch.randn(shape, generator=draw, requires_grad=trained) for shape in ((300, 16), (300,))]
    head = Head(parts[0], parts[1])
    targets = torch.randint(300, (1400,), generator=draw)
    (summed_cross_entropy(hidden, head, targets, precision=precision) / 7).backward()
    leaves = [leaf for leaf in (hidden, *parts) if leaf.requires_grad]
    expected = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    for _ in range(2):  # without an earlier gradient, and with one
        loss = summed_cross_entropy(hidden, head, targets, precision=precision, sink=GradientSink(1 / 7)) / 7
        before = [part.grad if part.grad is None else part.grad.clone() for part in parts]
        loss.backward()
        for part, earlier in zip(parts, before, strict=True):
            assert (part.grad is None) == (earlier is None) == (not trained)
            assert earlier is None or torch.equal(part.grad, earlier)
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert_close(leaf.grad, 2 * gradient, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_computed_head_reaches_its_parameters() -> None:
    hidden, weight = torch.randn(5, 4), torch.randn(9, 4, requires_grad=True)
    summed_cross_entropy(hidden, Head(2 * weight, None), torch.zeros(5, dtype=torch.long), sink=GradientSink()).backward()
    assert weight.grad is not None


@pytest.mark.parametrize("with_sink", [True, False])
def test_no_targets_give_a_zero_gradient(with_sink: bool) -> None:
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    sink = GradientSink() if with_sink else None
    summed_cross_entropy(hidden, Head(weight, None), torch.zeros(0, dtype=torch.long), sink=sink).backward()
    assert weight.grad is not None
    assert weight.grad.count_nonzero() == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fused_loss_overwrites_logits_by_their_gradient(weighted: bool) -> None:
    """The definition of what the kernel for GPUs computes (tests/gpu compares the kernel)."""
    draw = torch.Generator().manual_seed(0)
    logits, targets = 4 * torch.randn(6, 50, generator=draw, dtype=torch.float64), torch.randint(50, (6,), generator=draw)
    weights = torch.rand(6, generator=draw, dtype=torch.float64) if weighted else None
    exact = logits.clone().requires_grad_()
    losses = F.cross_entropy(exact, targets, reduction="none")
    expected = losses.sum() if weights is None else losses @ weights
    expected.backward()
    loss, gradient = loss_and_gradient(logits, targets, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradient is logits
    assert (gradient - exact.grad).abs().max() < 1e-6
