"""The gain of context and the effective context, against readers whose use of context is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.evaluation.prefixes import LENGTH, letters, prefix_by_prefix, texts, ticked

from elongate.data.tokens import Tokens
from elongate.evaluation.context_gain import ContextGain
from elongate.evaluation.evaluation import Setting
from elongate.scoring.scorer import Scorer


@pytest.fixture
def setting() -> Setting:
    return letters()


class Reach(Scorer):
    """Each of the `reach` tokens before a token lowers its loss of 2 nats by the same share."""

    def __init__(self, reach: int) -> None:
        self.reach = reach

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> np.ndarray:
        losses = 2 - np.minimum(np.arange(tokens.shape[1]), self.reach) / self.reach
        return np.where(np.arange(tokens.shape[1]) > 0, losses, np.nan) + 0.001 * tokens[:, -1:]

    def continuation(self, *given: Any) -> Any:
        raise AssertionError

    def answers(self, model: Any, prefix: np.ndarray, choices: np.ndarray) -> Any:
        raise AssertionError


@pytest.mark.parametrize(("reach", "effective"), [(30, 32), (40, 64), (100, 128)])
def test_the_effective_context_is_the_shortest_without_further_gain(setting: Setting, model: Any, reach: int, effective: int) -> None:
    row = ContextGain(lengths=[16, 32, 64, 128], num_scored=1).measure(model, replace(setting, reading=Reach(reach)), ticked)
    whole = 2 - min(127, reach) / reach
    for length, gain, (low, high) in zip((16, 32, 64, 128), row["gain"], row["gain_interval"], strict=True):
        assert gain == pytest.approx(2 - min(length - 1, reach) / reach - whole, abs=1e-9)
        # The difference between documents cancels, because both losses are of the same targets.
        assert low == pytest.approx(gain, abs=1e-9)
        assert high == pytest.approx(gain, abs=1e-9)
    assert row["effective_context"] == effective
    assert row["effective_context_interval"] is None  # eight documents are too few


class Unsure(Reach):
    """In every second document the tokens beyond 32 are worth 0.03 nats."""

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> np.ndarray:
        far = np.arange(tokens.shape[1]) > 32
        return super().losses(model, tokens, original_length) - 0.03 * far * (tokens[:, -1:] % 2)


def test_the_interval_of_the_effective_context_depends_on_the_documents(setting: Setting, model: Any) -> None:
    many = Tokens(np.random.default_rng(1).integers(97, 123, size=40 * LENGTH).astype(np.uint16), np.arange(0, 40 * LENGTH + 1, LENGTH))
    evaluation = ContextGain(lengths=[16, 32, 64, 128], num_scored=1)
    row = evaluation.measure(model, replace(setting, held_out=many, reading=Unsure(20)), ticked)
    odd = (many.flat.reshape(40, LENGTH)[:, 127] % 2).mean()
    assert row["gain"][1] == pytest.approx(0.03 * odd, abs=1e-9)
    assert row["effective_context"] == (64 if 0.03 * odd > 0.01 else 32)
    low, high = row["effective_context_interval"]
    assert low <= row["effective_context"] <= high
    # If all documents agree, the interval has no width.
    sure = evaluation.measure(model, replace(setting, held_out=many, reading=Reach(40)), ticked)
    assert sure["effective_context_interval"] == (64, 64)


class Broken(Reach):
    """Predicts much worse from texts of more than `reach` tokens."""

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> np.ndarray:
        return super().losses(model, tokens, original_length) + 3 * (tokens.shape[1] > self.reach)


def test_the_effective_context_of_a_model_that_breaks_ends_before_the_break(setting: Setting, model: Any) -> None:
    row = ContextGain(lengths=[16, 32, 64, 128], num_scored=1).measure(model, replace(setting, reading=Broken(64)), ticked)
    assert all(gain < -1 for gain in row["gain"][:3])
    assert row["effective_context"] == 64


def test_gain_is_the_difference_of_the_same_targets(setting: Setting, model: Any) -> None:
    row = ContextGain(lengths=[16, 40, 120], num_scored=8).measure(model, setting, ticked)
    rows = texts(setting)[:, :120]
    losses = [prefix_by_prefix(model, rows[:, -length:], 8) for length in (16, 40, 120)]
    assert row["gain"] == pytest.approx([(part - losses[-1]).mean() for part in losses], abs=1e-9)
    assert row["gain"][-1] == 0
    assert row["gain_interval"][0][0] < row["gain"][0] < row["gain_interval"][0][1]
