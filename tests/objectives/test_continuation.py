"""What is encoded and what is decoded, and a text read in stretches against each stretch read alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tests.models.autoencoders import BLOCK, VOCAB, autoencoder
from torch.nn import functional as F

from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.objectives.continuation import Continuation

TOKENS = np.arange(2 * 25).reshape(2, 25) % VOCAB  # 24 of each row are read


def test_every_decoded_token_is_told_from_the_context_and_the_tokens_before_it() -> None:
    (example,) = Continuation(continuation_length=4).examples(Batch(TOKENS, None, None), autoencoder())
    assert_array_equal(example.context, TOKENS[:, :20])
    assert_array_equal(example.inputs, TOKENS[:, 19:23])
    assert_array_equal(example.targets, TOKENS[:, 20:24])
    assert example.scored.all()
    assert example.positions is None
    assert example.length == 24


def test_half_of_the_original_length_is_decoded_also_after_an_extension() -> None:
    model = autoencoder()
    model.network.config.max_position_embeddings = 24  # as an extension leaves it
    (example,) = Continuation().examples(Batch(TOKENS, None, None), model)
    assert example.inputs.shape[1] == 8


def test_sampled_positions_reach_the_context_and_a_token_behind_a_seam_is_not_told() -> None:
    positions = np.cumsum(np.ones((2, 24), dtype=np.int64), axis=1)
    seams = np.zeros((2, 25), dtype=bool)
    seams[0, 22] = seams[1, 3] = True
    (example,) = Continuation(continuation_length=4).examples(Batch(TOKENS, positions, seams), autoencoder())
    assert_array_equal(example.positions, positions[:, :23])  # of the context and of the inputs after its last token
    assert_array_equal(example.scored, [[True, True, False, True], [True] * 4])


@pytest.mark.parametrize("latents", [4, 2])
@pytest.mark.parametrize("size", [4, 8, 10])  # the last is no whole number of blocks: read as 8
def test_a_text_that_is_read_in_stretches_has_the_losses_of_each_stretch_alone(size: int, latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    losses = Continuation(continuation_length=size).scorer.losses(model, TOKENS, 16)
    stretch, tokens = size // BLOCK * BLOCK, torch.from_numpy(TOKENS)
    assert np.isnan(losses[:, :stretch]).all()
    for start in range(stretch, 25, stretch):
        stop = min(start + stretch, 25)
        hidden = model.hidden(tokens[:, start - 1 : stop - 1], context=tokens[:, :start])
        logits = F.linear(hidden, *model.head).detach()
        expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, start:stop].flatten(), reduction="none")
        assert_allclose(losses[:, start:stop].flatten(), expected, rtol=1e-10)


def test_a_text_of_one_stretch_has_nothing_to_be_told_from() -> None:
    assert np.isnan(Continuation().scorer.losses(autoencoder(), TOKENS[:, :8], 16)).all()


@pytest.mark.parametrize("prefix", [2, 8, 11])  # below a block; whole blocks; more than that
def test_an_answer_is_as_likely_as_its_tokens_are_one_after_the_other(prefix: int) -> None:
    model = autoencoder()
    texts, choices = TOKENS[:, :prefix], np.array([[[5, 9], [40, 3]], [[1, 2], [7, 7]]])
    encoded = prefix // BLOCK * BLOCK or prefix

    def chances(text: np.ndarray) -> torch.Tensor:
        tokens = torch.from_numpy(text)[None]
        hidden = model.hidden(tokens[:, encoded - 1 :], context=tokens[:, :encoded])
        return F.linear(hidden[0, -1], *model.head).log_softmax(-1).detach()

    for row in range(2):  # what greedy decoding writes is one of the choices of the first text
        first = int(chances(texts[row]).argmax())
        second = int(chances(np.append(texts[row], first)).argmax())
        choices[row, row] = [first, second]
    totals, exact = Continuation().scorer.answers(model, texts, choices)
    for row in range(2):
        for choice in range(2):
            a, b = choices[row, choice]
            expected = chances(texts[row])[a] + chances(np.append(texts[row], a))[b]
            assert totals[row, choice] == pytest.approx(expected.item(), rel=1e-10)
    assert exact.tolist() == [[True, False], [False, True]]


def test_a_length_below_one_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="continuation_length=0: must be at least 1; use continuation_length=null"):
        Continuation(continuation_length=0)
