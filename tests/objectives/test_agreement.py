"""The distance between two directions and its gradient, compared with whole logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from elongate.models.head import Adjustment, Head
from elongate.objectives.agreement import summed_disagreement


def test_the_distance_is_0_for_equal_states_symmetric_and_1_for_certain_different_ones() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(600, 8, dtype=torch.float64, generator=draw, requires_grad=True) for _ in range(2))
    head = Head(torch.randn(31, 8, dtype=torch.float64, generator=draw), torch.randn(31, dtype=torch.float64, generator=draw))
    zero = summed_disagreement(one, one, head)
    assert zero == 0
    assert_close(torch.autograd.grad(zero, one)[0], torch.zeros(600, 8, dtype=torch.float64))
    assert_close(summed_disagreement(one, other, head), summed_disagreement(other, one, head), rtol=1e-12, atol=0)
    certain = torch.eye(8, dtype=torch.float64) * 1000
    assert_close(summed_disagreement(certain, certain.roll(1, 0), Head(torch.eye(8, dtype=torch.float64))), torch.tensor(8.0).double())


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.5, 2.0)])
def test_the_distance_and_its_gradient_are_those_of_whole_logits(with_bias: bool, trained: bool, scale: float, cap: float | None) -> None:
    draw = torch.Generator().manual_seed(1)
    states = [torch.randn(300, 8, dtype=torch.float64, generator=draw, requires_grad=True) for _ in range(2)]
    weight = torch.randn(41, 8, dtype=torch.float64, generator=draw).requires_grad_(trained)
    bias = torch.randn(41, dtype=torch.float64, generator=draw).requires_grad_(trained) if with_bias else None
    leaves = [leaf for leaf in (*states, weight, bias) if leaf is not None and leaf.requires_grad]
    logits = [scale * F.linear(x, weight, bias) for x in states]
    chances = [(x if cap is None else cap * torch.tanh(x / cap)).softmax(-1) for x in logits]
    expected = (chances[0] - chances[1]).abs().sum() / 2
    found = summed_disagreement(states[0], states[1], Head(weight, bias, Adjustment(scale, cap)))
    assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, reference in zip(torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * expected, leaves), strict=True):
        assert_close(mine, reference, rtol=1e-11, atol=1e-12)


def test_the_distance_in_bf16_is_that_of_fp32_to_its_precision() -> None:
    draw = torch.Generator().manual_seed(1)
    states = [torch.randn(700, 16, generator=draw, requires_grad=True) for _ in range(2)]
    weight = torch.randn(300, 16, generator=draw, requires_grad=True)
    leaves = [*states, weight]
    exact, rounded = (summed_disagreement(states[0], states[1], Head(weight), precision) for precision in ("fp32", "bf16"))
    assert_close(rounded, exact, rtol=5e-3, atol=0)
    for whole, half in zip(torch.autograd.grad(exact, leaves), torch.autograd.grad(rounded, leaves), strict=True):
        # Where two probabilities are almost equal, rounding may change the sign of their difference.
        assert F.cosine_similarity(whole.flatten(), half.flatten(), dim=0) > 0.99
