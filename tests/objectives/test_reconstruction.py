"""All places of the text are scored, hidden from the encoder or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from tests.models.autoencoders import VOCAB, autoencoder
from torch.nn import functional as F

from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.memory.plain import Plain
from elongate.objectives.reconstruction import Reconstruction

MASK = VOCAB - 1
TOKENS = np.random.default_rng(0).integers(MASK, size=(8, 41))


def examples(**fields: float) -> list:
    model = autoencoder()
    model.mask_token = MASK
    return Reconstruction(**fields).examples(Batch(TOKENS, None, None), model)


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_the_encoder_reads_a_corrupted_text_and_all_places_are_scored(ratio: float) -> None:
    (example,) = examples(mask_ratio=ratio)
    assert_array_equal(example.targets, TOKENS[:, :-1])
    assert example.scored.all()
    assert example.context is None
    hidden = (example.inputs == MASK).sum().item()
    # Each row chooses the same number of tokens and masks 80% of them.
    assert hidden == pytest.approx(0.8 * ratio * 320, rel=0.2)
    assert ((example.inputs != example.targets).sum(1) <= round(ratio * 40)).all()


def test_the_same_batch_is_always_corrupted_in_the_same_way() -> None:
    assert_array_equal(examples()[0].inputs, examples()[0].inputs)


def test_the_loss_is_the_mean_over_all_places() -> None:
    model = autoencoder()
    (example,) = examples()
    loss = Plain().backward(model, example)
    logits = model.network(example.inputs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(TOKENS[:, :-1]).flatten())
    assert loss == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_a_ratio_outside_0_and_1_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"mask_ratio=.*: must be in \(0, 1\); use mask_ratio=0.3"):
        Reconstruction(mask_ratio=ratio)
