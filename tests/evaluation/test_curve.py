"""The curve against transformers' own loss, and against a computation prefix by prefix."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.evaluation import curve as module
from elongate.evaluation.curve import Curve, _fine_edges, _mean, _sums, _table_edges
from elongate.evaluation.evaluation import Setting
from elongate.scoring.fill_in import FillIn
from elongate.scoring.left_to_right import LeftToRight


def setting(lengths: list[int], original: int = 16, target: int = 32) -> Setting:
    flat = np.random.default_rng(0).integers(256, size=sum(lengths)).astype(np.uint16)
    return Setting(Tokens(flat, np.concatenate([[0], np.cumsum(lengths)])), None, original, target, seed=0, reading=LeftToRight())  # type: ignore[arg-type]


def test_the_mean_over_all_bins_equals_the_loss_of_transformers(model: Any) -> None:
    where = setting([100, 64, 80, 64])
    figures = Curve(length=64).measure(model, where, lambda text: None)["table"]
    cuts = np.stack([where.held_out.flat[start : start + 64] for start in (0, 100, 164, 244)]).astype(np.int64)
    tokens = torch.from_numpy(cuts)
    expected = model.network(input_ids=tokens, labels=tokens).loss.item()
    edges = _table_edges(16, 64)
    counts = [b - max(a, 1) for a, b in itertools.pairwise(edges)]
    assert sum(counts) == 63
    assert np.average(figures["loss"], weights=counts) == pytest.approx(expected, rel=1e-6)


def test_every_position_is_scored_with_exactly_the_tokens_before_it(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_table_edges", lambda original, length: list(range(1, length + 1)))
    where = setting([12])
    figures = Curve(length=12, num_sequences=1).measure(model, where, lambda text: None)["table"]
    tokens = torch.from_numpy(where.held_out.flat[:12].astype(np.int64))[None]
    for i in range(1, 12):
        with torch.no_grad():
            chances = model.network(input_ids=tokens[:, :i]).logits[0, -1].log_softmax(-1)
        assert figures["loss"][i - 1] == pytest.approx(-chances[tokens[0, i]].item(), rel=1e-6)
    assert figures["standard_error"] == [None] * 11  # one sequence gives no standard error


def test_results_do_not_depend_on_the_batch_size(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = setting([64] * 9)
    whole = Curve(length=64).measure(model, where, lambda text: None)
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    single = Curve(length=64).measure(model, where, lambda text: None)
    np.testing.assert_allclose(single["fine"]["loss"], whole["fine"]["loss"], rtol=1e-6)


def binned(losses: np.ndarray, edges: list[int]) -> dict[str, Any]:
    return _mean(*map(np.array, zip(*(_sums(row, edges) for row in losses), strict=True)))


def test_mean_and_standard_error_agree_with_numpy() -> None:
    losses = np.random.default_rng(0).normal(size=(5, 16))
    losses[:, [0, 9]] = np.nan  # not scored
    figures = binned(losses, [0, 4, 16])
    parts = [losses[:, 1:4].mean(1), np.delete(losses, 9, axis=1)[:, 4:].mean(1)]
    np.testing.assert_allclose(figures["loss"], [part.mean() for part in parts])
    np.testing.assert_allclose(figures["standard_error"], [part.std(ddof=1) / 5**0.5 for part in parts])
    losses[:, 4:] = np.nan
    assert binned(losses, [0, 4, 16])["loss"][1] is None


@pytest.mark.parametrize(("original", "length"), [(256, 4096), (32, 512), (8, 100), (4, 7), (100, 150)])
def test_bins_cover_every_target_once(original: int, length: int) -> None:
    for edges in (_table_edges(original, length), _fine_edges(length)):
        assert edges[0] == 0
        assert edges[-1] == length
        assert all(a < b for a, b in itertools.pairwise(edges))
        assert edges[1] >= 2  # the first token has nothing before it: a bin of it alone would be empty


def test_shorter_documents_give_a_shorter_curve() -> None:
    header = Curve().header(setting([60] * 20))
    assert (header["length"], header["n"], header["documents"]) == (32, 20, 20)
    with pytest.raises(ConfigError, match=r"evaluation\.curve\.length=64: finds no held-out document of 64 tokens"):
        Curve(length=64).header(setting([60] * 20))


def test_too_short_held_out_documents_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.curve\.length=16: finds no held-out document of 16 tokens"):
        Curve().header(setting([10] * 20))


def test_a_model_that_reads_both_sides_is_measured_up_to_the_target_length() -> None:
    two_sided = replace(setting([200] * 20), reading=FillIn(0.15))
    assert Curve().header(two_sided)["length"] == 32
    assert Curve().header(setting([200] * 20))["length"] == 128
    assert Curve(length=64).header(two_sided)["length"] == 64


def test_unscored_tokens_do_not_count() -> None:
    losses = np.array([[1.0, np.nan, 3.0, np.nan], [np.nan, np.nan, 7.0, np.nan], [3.0, np.nan, 2.0, np.nan]])
    figures = binned(losses, [0, 1, 2, 3, 4])
    assert figures["loss"] == [2.0, None, 4.0, None]
    # The error of a ratio of sums: a sequence without scored tokens does not change it.
    shares = np.array([1 - 2, 0, 3 - 2]) / (2 / 3)
    by_hand = [shares.std(ddof=1) / 3**0.5, None, np.std([3, 7, 2], ddof=1) / 3**0.5, None]
    assert figures["standard_error"] == [error if error is None else pytest.approx(error) for error in by_hand]
    # In a bin of several positions every scored token has the same weight.
    assert binned(losses, [0, 4])["loss"] == [pytest.approx((1 + 3 + 7 + 3 + 2) / 5)]
