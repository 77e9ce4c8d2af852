"""Gradients of an embedding, added where they belong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from elongate.memory.embedding import sparse_gradient


class Scaled(nn.Embedding):
    """Like the one of Gemma."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
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
    ids=["plain", "padding", "max_norm", "scale_grad_by_freq", "of a kind of its own"],
)
def test_gradients_equal_torchs(embedding: nn.Embedding) -> None:
    tokens, factor = torch.tensor([[1, 2, 2, 8], [2, 1, 0, 1]]), torch.randn(2, 4, 4)
    (embedding(tokens) * factor).sum().backward()
    assert embedding.weight.grad is not None
    expected, embedding.weight.grad = embedding.weight.grad, None
    for times in (1, 2):  # to none, and to what is there
        with sparse_gradient(embedding):
            states = embedding(tokens)
            (states * factor).sum().backward()
        assert_close(embedding.weight.grad, times * expected)
    assert torch.equal(states, embedding(tokens))


def test_no_tensor_of_the_vocabulary_is_made_and_all_is_as_before_afterwards() -> None:
    embedding = nn.Embedding(9, 4)
    embedding.weight.grad = held = torch.zeros(9, 4)
    with sparse_gradient(embedding):
        states = embedding(torch.tensor([[3]]))
        assert type(states.grad_fn).__name__ == "_LookupBackward"
        states.sum().backward()
    assert embedding.weight.grad is held
    assert held.count_nonzero() == 4
    assert type(embedding(torch.tensor([[3]])).grad_fn).__name__ == "EmbeddingBackward0"


def test_an_embedding_that_is_not_trained_gets_no_gradient() -> None:
    embedding = nn.Embedding(9, 4).requires_grad_(False)
    with sparse_gradient(embedding):
        assert not embedding(torch.tensor([[3]])).requires_grad
    assert embedding.weight.grad is None
