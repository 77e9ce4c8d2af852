"""Scoring an autoencoder: a text in segments compared with each segment alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tests.models.autoencoders import BLOCK, VOCAB, autoencoder
from torch.nn import functional as F

from elongate.scoring.segmentwise import Segmentwise

TOKENS = np.arange(2 * 25).reshape(2, 25) % VOCAB


@pytest.mark.parametrize("latents", [4, 2])
@pytest.mark.parametrize("size", [4, 8, 10])  # 10 is not whole blocks, so it is rounded down to 8
def test_losses_are_those_of_each_segment_alone(size: int, latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    losses = Segmentwise(size).losses(model, TOKENS, 16)
    segment, tokens = size // BLOCK * BLOCK, torch.from_numpy(TOKENS)
    assert np.isnan(losses[:, :segment]).all()
    for start in range(segment, 25, segment):
        stop = min(start + segment, 25)
        hidden = model.hidden(tokens[:, start - 1 : stop - 1], context=tokens[:, :start])
        logits = model.logits(hidden).detach()
        expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, start:stop].flatten(), reduction="none")
        assert_allclose(losses[:, start:stop].flatten(), expected, rtol=1e-10)


def test_a_text_of_one_segment_has_no_losses() -> None:
    assert np.isnan(Segmentwise(None).losses(autoencoder(), TOKENS[:, :8], 16)).all()


@pytest.mark.parametrize("prefix", [2, 8, 11])  # shorter than a block; whole blocks; more than whole blocks
def test_an_answer_is_as_likely_as_its_tokens_one_after_the_other(prefix: int) -> None:
    model = autoencoder()
    texts, choices = TOKENS[:, :prefix], np.array([[[5, 9], [40, 3]], [[1, 2], [7, 7]]])
    encoded = prefix // BLOCK * BLOCK or prefix

    def chances(text: np.ndarray) -> torch.Tensor:
        tokens = torch.from_numpy(text)[None]
        hidden = model.hidden(tokens[:, encoded - 1 :], context=tokens[:, :encoded])
        return model.logits(hidden[0, -1]).log_softmax(-1).detach()

    for row in range(2):  # one choice of each text is what greedy decoding writes
        first = int(chances(texts[row]).argmax())
        second = int(chances(np.append(texts[row], first)).argmax())
        choices[row, row] = [first, second]
    totals, exact = Segmentwise(None).answers(model, texts, choices)
    for row in range(2):
        for choice in range(2):
            a, b = choices[row, choice]
            expected = chances(texts[row])[a] + chances(np.append(texts[row], a))[b]
            assert totals[row, choice] == pytest.approx(expected.item(), rel=1e-10)
    assert exact.tolist() == [[True, False], [False, True]]
