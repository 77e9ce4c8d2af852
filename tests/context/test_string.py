"""STRING: its distances against the paper, the kernel against a dense definition, its reach and its preset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.conftest import composed
from tests.context.test_attention import distances
from tests.context.test_attention_definitions import matrix
from tests.context.test_blocks import pairs
from torch import Tensor

from elongate.build import build_job
from elongate.context.attention.kernel.interface import Scores, _Attend
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.string import String, StringPattern
from elongate.errors import ConfigError

HEADS, DIM, BORDER, LENGTH = 4, 8, 11, 37


def test_by_hand() -> None:
    """The size of figure 5 of the paper: 9 tokens, distances from 3 on are shifted down, to a local window of 1."""
    expected = """
        0
        1 0
        2 1 0
        1 2 1 0
        2 1 2 1 0
        3 2 1 2 1 0
        4 3 2 1 2 1 0
        5 4 3 2 1 2 1 0
        6 5 4 3 2 1 2 1 0
    """
    np.testing.assert_array_equal(distances(StringPattern(shift_length=3, window_length=1), 9)[0], matrix(expected))


@settings(max_examples=50)
@given(length=some.integers(1, 40), shift=some.integers(2, 30), width=some.integers(1, 29))
def test_distances_from_the_shift_on_are_moved(length: int, shift: int, width: int) -> None:
    q, k = pairs(length)
    expected = np.where(q - k >= shift, q - k - shift + width, q - k)
    np.testing.assert_array_equal(distances(StringPattern(shift, width), length)[0], np.where(k <= q, expected, -1))


def dense(q: Tensor, k: Tensor, v: Tensor, frequencies: Tensor, shift: int, width: int, scale: float) -> Tensor:
    """One softmax of each document; a score is the real part of the sum of q · conj(k) · exp(i · frequency · distance)."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    half = DIM // 2
    a, b = (torch.complex(x[..., :half], x[..., half:]) for x in (q, k))
    row = torch.arange(LENGTH)
    apart = row[:, None] - row[None]
    moved = torch.where(apart >= shift, apart - shift + width, apart)
    turns = torch.polar(torch.ones(()).double(), moved[..., None] * frequencies)
    scores = torch.einsum("bhqd,bhkd,qkd->bhqk", a, b.conj(), turns).real * scale
    seen = (apart >= 0) & ((row[:, None] < BORDER) == (row[None] < BORDER))
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize(("shift", "width"), [(2, 1), (7, 3), (12, 11), (30, 4)])
def test_the_kernel_equals_the_dense_definition_and_its_gradients(shift: int, width: int) -> None:
    draw = torch.Generator().manual_seed(shift)
    shapes = [(2, HEADS, LENGTH, DIM), (2, HEADS // 2, LENGTH, DIM), (2, HEADS // 2, LENGTH, DIM)]
    inputs = [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes]
    grad = torch.randn(shapes[0], generator=draw, dtype=torch.float64)
    frequencies = 10 ** -torch.arange(0, 2, 0.5, dtype=torch.float64)
    expected = dense(*inputs, frequencies, shift, width, 0.3)
    documents = torch.cat([torch.arange(BORDER), torch.arange(LENGTH - BORDER)]).expand(2, LENGTH)
    layout = Layout.for_batch(StringPattern(shift, width), (2, LENGTH), documents, frequencies)
    found = _Attend.apply(*inputs, None, layout.batched_regions(HEADS, True, None), Scores(0.3, None, None), None)[0]
    for ours, theirs in zip(
        [found, *torch.autograd.grad(found, inputs, grad)], [expected, *torch.autograd.grad(expected, inputs, grad)], strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("original", [8, 21, 64])
def test_at_its_reach_the_farthest_key_has_the_longest_trained_distance(original: int) -> None:
    chosen = String(shift_length=original // 2, window_length=2)
    reach = original + original // 2 - 2
    chosen.check(reach, original)
    assert distances(chosen.for_length(reach, original), reach).max() == original - 1
    with pytest.raises(ConfigError, match=f"reaches {reach} tokens"):
        chosen.check(reach + 1, original)


def test_the_defaults_are_a_third_and_the_window_of_the_authors() -> None:
    assert String().for_length(131072, 131072) == StringPattern(shift_length=43690, window_length=128)


@pytest.mark.slow
def test_the_preset_stays_within_the_original_length_unless_a_target_is_given() -> None:
    assert build_job(*composed("context=string", "model.original_length=96")).strategy.target_length == 96
    assert build_job(*composed("context=string", "context.target_length=300")).strategy.target_length == 300
