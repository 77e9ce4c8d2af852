"""Next-token prediction: which token is predicted from which."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from elongate.data.sequences import Batch
from elongate.objectives.causal import next_token

TOKENS = np.array([[5, 6, 9, 7, 8]])  # 9 ends a document


def test_every_token_is_predicted_from_the_one_before_it() -> None:
    example = next_token(Batch(TOKENS, None, None))
    assert_array_equal(example.inputs, [[5, 6, 9, 7]])
    assert_array_equal(example.targets, [[6, 9, 7, 8]])
    assert_array_equal(example.scored, [[True] * 4])
    assert example.positions is None


def test_the_first_token_of_an_isolated_document_is_not_scored() -> None:
    starts = np.array([[False, False, False, True, False]])
    example = next_token(Batch(TOKENS, np.array([[3, 4, 5, 0]]), starts))
    assert_array_equal(example.scored, [[True, True, False, True]])
    assert_array_equal(example.positions, [[3, 4, 5, 0]])
