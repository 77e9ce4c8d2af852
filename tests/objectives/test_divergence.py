"""The divergence from a teacher, a few tokens at a time, compared with autograd over whole logits."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from tests.memory.test_bytes import Bytes
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from elongate.models.head import Adjustment, Head
from elongate.objectives import divergence as module
from elongate.objectives.cross_entropy import summed_cross_entropy
from elongate.objectives.divergence import summed_distillation
from elongate.objectives.teacher import Divergence, Kind

TOKENS, WORDS = 30, 23
KINDS = get_args(Kind)


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _inputs() -> tuple[list[Tensor], Tensor, Head, Tensor]:
    """Return the student's leaves (states, matrix, bias), the teacher's states and head, and the targets."""
    leaves = [_draw(TOKENS, 8, seed=1), _draw(WORDS, 8, seed=2), _draw(WORDS, seed=3)]
    teacher = Head(_draw(WORDS, 12, seed=4), adjustment=Adjustment(cap=5.0))
    targets = torch.randint(WORDS, (TOKENS,), generator=torch.Generator().manual_seed(6))
    return [leaf.requires_grad_() for leaf in leaves], _draw(TOKENS, 12, seed=5), teacher, targets


def _whole(kind: str, z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
    q, p = (torch.softmax(z / temperature, -1) for z in (z_s, z_t))
    to, mean = (lambda a, b: (a * (a / b).log()).sum(-1)), (p + q) / 2
    return {"forward_kl": to(p, q), "reverse_kl": to(q, p), "jensen_shannon": (to(p, mean) + to(q, mean)) / 2}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("alpha", "temperature", "cap"), [(0.0, 1.0, None), (0.3, 2.0, 3.0)])
def test_sum_and_gradients_equal_those_of_whole_logits(
    kind: Kind, alpha: float, temperature: float, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 7)
    leaves, teacher_states, teacher, targets = _inputs()
    weights = _draw(TOKENS, seed=7).abs()
    head = Head(leaves[1], leaves[2], Adjustment(0.5, cap))
    ours = summed_distillation(leaves[0], head, teacher_states, teacher, targets, Divergence(kind, alpha, temperature), weights)
    logits = head.logits(leaves[0])
    distances = _whole(kind, logits, teacher.logits(teacher_states), temperature)
    each = alpha * F.cross_entropy(logits, targets, reduction="none") + (1 - alpha) * temperature**2 * distances
    whole = each @ weights
    assert_close(ours, whole, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * whole, leaves), strict=True):
        assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "share"), [("forward_kl", 1.0), ("reverse_kl", 1.0), ("jensen_shannon", 0.25)])
def test_high_temperature_compares_centered_logits(kind: Kind, share: float) -> None:
    (states, matrix, bias), teacher_states, teacher, targets = _inputs()
    head = Head(matrix, bias)
    ours = summed_distillation(states, head, teacher_states, teacher, targets, Divergence(kind, 0.0, 1e4))
    gap = head.logits(states) - teacher.logits(teacher_states)
    assert_close(ours, share * gap.var(-1, correction=0).sum() / 2, rtol=5e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_the_share_and_of_an_equal_teacher(kind: Kind) -> None:
    (states, matrix, bias), teacher_states, teacher, targets = _inputs()
    head = Head(matrix, bias)
    alone = summed_distillation(states, head, teacher_states, teacher, targets, Divergence(kind, 1.0, 2.0))
    assert torch.equal(alone, summed_cross_entropy(states, head, targets))
    equal = summed_distillation(states, head, states, head, targets, Divergence(kind, 0.0, 2.0))
    assert equal.abs() < 1e-12
    assert max(grad.abs().max() for grad in torch.autograd.grad(equal, [states, matrix, bias])) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_only_one_of_both_has_are_not_compared(kind: Kind) -> None:
    leaves, teacher_states, teacher, targets = _inputs()
    head, targets = Head(leaves[1], leaves[2]), targets.clamp(max=WORDS - 4)
    fewer = Head(teacher.weight[:-3], None, teacher.adjustment)
    logits = head.logits(leaves[0])
    distances = _whole(kind, logits[:, :-3], fewer.logits(teacher_states), 2.0)
    whole = (0.3 * F.cross_entropy(logits, targets, reduction="none") + 0.7 * 4 * distances).sum()
    expected = torch.autograd.grad(whole, leaves)
    ours = summed_distillation(leaves[0], head, teacher_states, fewer, targets, Divergence(kind, 0.3, 2.0))
    assert_close(ours, whole, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(torch.autograd.grad(ours, leaves), expected, strict=True):
        assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    shorter = Head(leaves[1][:-3], leaves[2][:-3])
    same = Head(teacher.weight[:-3], None, teacher.adjustment)
    one, other = (summed_distillation(leaves[0], shorter, teacher_states, t, targets, Divergence(kind, 0.3, 2.0)) for t in (teacher, same))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_with_the_states_and_not_with_the_logits(kind: Kind) -> None:
    words, dim = 997, 8
    head, teacher = (Head(_draw(words, dim, seed=seed).requires_grad_(seed == 1)) for seed in (1, 2))

    def peak(tokens: int) -> int:
        states, theirs = _draw(tokens, dim, seed=3).requires_grad_(), _draw(tokens, dim, seed=4)
        targets = torch.zeros(tokens, dtype=torch.long)
        with Bytes([states, theirs, targets, head.weight, teacher.weight]) as counting:
            summed_distillation(states, head, theirs, teacher, targets, Divergence(kind)).backward()
        return counting.peak

    # The gradient of a state, kept and scaled.
    assert peak(1024) - peak(512) <= 512 * 2 * dim * 8
