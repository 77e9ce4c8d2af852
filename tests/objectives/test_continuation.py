"""Which part of a text is encoded and which part is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.models.autoencoders import VOCAB, autoencoder

from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.objectives.continuation import Continuation
from elongate.scoring.segmentwise import Segmentwise

TOKENS = np.arange(2 * 25).reshape(2, 25) % VOCAB  # 24 of each row are read


def test_decoded_tokens_are_predicted_from_the_context_and_earlier_tokens() -> None:
    (example,) = Continuation(continuation_length=4).examples(Batch(TOKENS, None, None), autoencoder())
    assert_array_equal(example.context, TOKENS[:, :20])
    assert_array_equal(example.inputs, TOKENS[:, 19:23])
    assert_array_equal(example.targets, TOKENS[:, 20:24])
    assert example.scored.all()
    assert example.positions is None
    assert example.length == 24


def test_half_of_the_original_length_is_decoded_even_after_an_extension() -> None:
    model = autoencoder()
    model.network.config.max_position_embeddings = 24  # as an extension leaves it
    (example,) = Continuation().examples(Batch(TOKENS, None, None), model)
    assert example.inputs.shape[1] == 8


def test_sampled_positions_include_the_context_and_seams_are_not_scored() -> None:
    positions = np.cumsum(np.ones((2, 24), dtype=np.int64), axis=1)
    seams = np.zeros((2, 25), dtype=bool)
    seams[0, 22] = seams[1, 3] = True
    (example,) = Continuation(continuation_length=4).examples(Batch(TOKENS, positions, seams), autoencoder())
    assert_array_equal(example.positions, positions[:, :23])  # of the context and of the inputs after its last token
    assert_array_equal(example.scored, [[True, True, False, True], [True] * 4])


def test_a_length_below_one_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="continuation_length=0: must be at least 1; use continuation_length=null"):
        Continuation(continuation_length=0)


def test_texts_are_scored_in_segments_as_long_as_in_training() -> None:
    assert Continuation(continuation_length=8).scorer == Segmentwise(8)
