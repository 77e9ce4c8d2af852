"""Gradients that bypass autograd equal those of autograd."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from elongate.models.gradient_sink import GradientSink


class Scaled(nn.Embedding):
    """A subclass with its own forward, as in Gemma."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


@pytest.mark.parametrize(
    "embedding",
    [
        nn.Embedding(9, 4),
        nn.Embedding(9, 4, padding_idx=2),
        nn.Embedding(9, 4, max_norm=0.5),
        nn.Embedding(9, 4, scale_grad_by_freq=True),
        Scaled(9, 4),
    ],
    ids=["plain", "padding", "max_norm", "scale_grad_by_freq", "subclass"],
)
def test_embedding_gradients_equal_torchs(embedding: nn.Embedding) -> None:
    tokens, factor = torch.tensor([[1, 2, 2, 8], [2, 1, 0, 1]]), torch.randn(2, 4, 4)
    (embedding(tokens) * factor).sum().backward()
    assert embedding.weight.grad is not None
    expected, embedding.weight.grad = embedding.weight.grad, None
    for times in (1, 2):  # without and with an existing gradient
        with GradientSink().embedding(embedding):
            states = embedding(tokens)
            (states * factor).sum().backward()
        assert_close(embedding.weight.grad, times * expected)
    assert torch.equal(states, embedding(tokens))


def test_the_embedding_adds_in_place_and_is_restored() -> None:
    embedding = nn.Embedding(9, 4)
    embedding.weight.grad = gradient = torch.zeros(9, 4)
    with GradientSink().embedding(embedding):
        states = embedding(torch.tensor([[3]]))
        assert type(states.grad_fn).__name__ == "_LookupBackward"
        states.sum().backward()
    assert embedding.weight.grad is gradient
    assert gradient.count_nonzero() == 4
    assert type(embedding(torch.tensor([[3]])).grad_fn).__name__ == "EmbeddingBackward0"


def test_a_frozen_embedding_gets_no_gradient() -> None:
    embedding = nn.Embedding(9, 4).requires_grad_(False)
    with GradientSink().embedding(embedding):
        assert not embedding(torch.tensor([[3]])).requires_grad
    assert embedding.weight.grad is None


@dataclass(frozen=True)
class Elsewhere(GradientSink):
    """A sink that leaves `.grad` alone, as one that averages over processes would."""

    received: dict[Tensor, Tensor] = field(default_factory=dict)

    def buffer(self, parameter: Tensor) -> Tensor:
        return self.received.setdefault(parameter, torch.zeros_like(parameter))


def test_every_addition_is_scaled_and_goes_through_the_buffer() -> None:
    weight, gradient = nn.Parameter(torch.randn(5, 3)), torch.randn(5, 3)
    left, right, rows = torch.randn(5, 2), torch.randn(2, 3), torch.randn(3, 3)
    sink = Elsewhere().scaled(0.5).scaled(3.0)
    sink.add(weight, gradient)
    sink.add_product(weight, left, right)
    sink.add_rows(weight, torch.tensor([4, 0, 4]), rows)
    expected = gradient + left @ right
    expected[0] += rows[1]
    expected[4] += rows[0] + rows[2]
    assert_close(sink.received[weight], 1.5 * expected)
    assert weight.grad is None


def test_only_trained_parameters_are_taken() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert GradientSink().takes(weight)
    assert not GradientSink().takes(2 * weight)
    assert not GradientSink().takes(weight.detach())
