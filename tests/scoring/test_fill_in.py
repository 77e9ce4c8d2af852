"""Scoring hidden tokens: every figure compared with transformers' logits for the same inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.networks import VOCAB, network

from elongate.context.position.interpolate import Interpolate
from elongate.models.language_model import LanguageModel
from elongate.scoring import fill_in
from elongate.scoring.fill_in import FillIn

MASK = VOCAB - 1
ORIGINAL = 16
SCORER = FillIn(0.15)


class Watched(LanguageModel):
    """Remembers the inputs of every call."""

    def __init__(self, kind: str) -> None:
        super().__init__(network(kind).eval(), kind)
        self.network.set_attn_implementation("elongate")
        self.mask_token = MASK
        self.read: list[torch.Tensor] = []
        assert self.adjustment is not None  # found by a call
        self.read.clear()

    def hidden(self, inputs: Any, *others: Any, **more: Any) -> Any:
        self.read.append(inputs)
        return super().hidden(inputs, *others, **more)


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(VOCAB - 1, size=(5, 60))


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_a_hidden_token_is_scored_in_the_shortest_pass_that_reaches_it(kind: str, tokens: np.ndarray) -> None:
    model = Watched(kind)
    losses = SCORER.losses(model, tokens, ORIGINAL)
    assert [inputs.shape[1] for inputs in model.read] == [16, 16, 32, 32, 60, 60]
    expected = np.full(tokens.shape, np.nan)
    counts = np.zeros(tokens.shape, dtype=int)
    for start, inputs in zip([0, 0, 16, 16, 32, 32], model.read, strict=True):
        length = inputs.shape[1]
        text = torch.from_numpy(tokens[:, :length])
        hidden = inputs == MASK
        # Only masked tokens differ from the text, and each row hides as many tokens as in training.
        assert torch.equal(torch.where(hidden, text, inputs), text)
        assert (hidden.sum(1) == round(0.15 * length)).all()
        with torch.no_grad():
            chances = model.network(inputs).logits.log_softmax(-1).gather(2, text[..., None])[..., 0]
        scored = (hidden & (torch.arange(length) >= start)).numpy()
        expected[:, :length][scored] = -chances.numpy()[scored]
        counts[:, :length] += scored
    assert counts.max() == 1  # the masks of a pass are disjoint
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_losses_do_not_depend_on_the_other_rows(tokens: np.ndarray) -> None:
    model = Watched("bert")
    together = SCORER.losses(model, tokens, ORIGINAL)
    alone = np.concatenate([SCORER.losses(model, row[None], ORIGINAL) for row in tokens])
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_masks_differ_between_texts_and_between_passes(tokens: np.ndarray) -> None:
    model = Watched("bert")
    SCORER.losses(model, tokens[:2], ORIGINAL)
    short, long = model.read[0] == MASK, model.read[2] == MASK
    assert not torch.equal(short[0], short[1])
    assert not torch.equal(short, long[:, :ORIGINAL])


@pytest.mark.parametrize("ratio", [0.01, 0.4, 0.6, 0.99])
def test_every_ratio_hides_its_share(ratio: float, tokens: np.ndarray) -> None:
    masks = list(fill_in._masks(tokens, ratio))
    assert [mask.sum(1).tolist() for mask in masks] == [[max(1, round(60 * ratio))] * 5] * (2 if ratio < 0.5 else 1)


def test_losses_beyond_the_table_are_nan_until_the_table_is_extended(tokens: np.ndarray) -> None:
    model = Watched("bert")  # 64 positions
    text = np.concatenate([tokens, tokens], axis=1)
    losses = SCORER.losses(model, text, 32)
    assert np.isfinite(losses[:, :64]).any()
    assert np.isnan(losses[:, 64:]).all()
    model.positions.learned.set(Interpolate(), 64, 128)
    longer = SCORER.losses(model, text, 32)
    assert (np.isfinite(longer[:, 64:]).sum(1) > 0).all()


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_an_answer_is_scored_in_one_pass_in_which_it_is_hidden(kind: str, tokens: np.ndarray) -> None:
    model, prefix = Watched(kind), tokens[:, :30]
    inputs = torch.from_numpy(np.concatenate([prefix, np.full((5, 4), MASK)], axis=1))
    with torch.no_grad():
        chances = model.network(inputs).logits[:, -4:].log_softmax(-1)
    best = chances.argmax(-1).numpy()
    nearly = best.copy()
    nearly[:, -1] = (nearly[:, -1] + 1) % VOCAB
    choices = np.stack([tokens[:, 30:34], best, nearly], axis=1)
    totals, exact = SCORER.answers(model, prefix, choices)
    assert len(model.read) == 1
    expected = chances[:, None].expand(-1, 3, -1, -1).gather(3, torch.from_numpy(choices)[..., None]).sum((2, 3))
    np.testing.assert_allclose(totals, expected.numpy(), rtol=1e-12)
    assert exact[:, 1].all()
    assert not exact[:, [0, 2]].any()


def test_an_answer_beyond_the_table_of_positions_is_nan(tokens: np.ndarray) -> None:
    text = np.concatenate([tokens, tokens], axis=1)
    totals, exact = SCORER.answers(Watched("bert"), text[:, :61], tokens[:, None, :4])
    assert np.isnan(totals).all()
    assert not exact.any()
    totals, _ = SCORER.answers(Watched("bert"), text[:, :60], tokens[:, None, :4])
    assert np.isfinite(totals).all()
