"""The head in pieces against the whole matrix of logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from elongate.objectives import cross_entropy
from elongate.objectives.cross_entropy import summed_cross_entropy, token_cross_entropy


@pytest.mark.parametrize("own", [True, False], ids=["own", "torch's"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("vocab", [11, 2000])
@pytest.mark.parametrize("masked", ["none", "some", "all"])
def test_sum_and_gradients_equal_those_of_whole_logits(
    own: bool, with_bias: bool, vocab: int, masked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "PIECE", 7)
    if own:
        monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 10, 8, dtype=torch.float64, generator=draw, requires_grad=True)
    weight = torch.randn(vocab, 8, dtype=torch.float64, generator=draw, requires_grad=True)
    bias = torch.randn(vocab, dtype=torch.float64, generator=draw, requires_grad=True) if with_bias else None
    targets = torch.randint(vocab, (3, 10), generator=draw)
    scored = {"none": torch.ones(3, 10), "some": torch.rand(3, 10, generator=draw) < 0.5, "all": torch.zeros(3, 10)}[masked].bool()
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]

    ours = summed_cross_entropy(hidden, (weight, bias), targets, scored)
    gradients = torch.autograd.grad(ours, leaves)
    each = F.cross_entropy(F.linear(hidden, weight, bias).flatten(0, 1), targets.flatten(), reduction="none").view(3, 10)
    expected = (each * scored).sum()
    assert_close(ours.double(), expected, rtol=1e-6 if own else 1e-12, atol=1e-12)
    for ours_, theirs in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        assert_close(ours_, theirs, rtol=1e-9, atol=1e-9)
    assert_close(token_cross_entropy(hidden, (weight, bias), targets), each.detach(), rtol=1e-12, atol=1e-12)


def test_bf16_agrees_with_fp32_to_its_own_precision() -> None:
    draw = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(2, 50, 16, generator=draw), torch.randn(300, 16, generator=draw)
    targets, scored = torch.randint(300, (2, 50), generator=draw), torch.ones(2, 50, dtype=torch.bool)
    exact = summed_cross_entropy(hidden, (weight, None), targets, scored)
    assert_close(summed_cross_entropy(hidden, (weight, None), targets, scored, "bf16"), exact, rtol=5e-3, atol=0)
