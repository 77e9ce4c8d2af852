"""Losses against those of transformers and against one prefix at a time; forms of perplexity against sums by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import evaluated
from tests.evaluation.conftest import Run
from tests.evaluation.prefixes import DOCUMENTS, LENGTH, letters, prefix_by_prefix, texts, ticked
from tests.evaluation.tokenizer_families import documents, tokenizer_of

from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.evaluation.context_gain import ContextGain
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.measurement import contexts
from elongate.evaluation.measurement.contexts import token_losses
from elongate.evaluation.perplexity import Perplexity
from elongate.scoring.fill_in import FillIn
from elongate.scoring.scorer import Scorer


@pytest.fixture
def setting() -> Setting:
    return letters()


def test_the_loss_equals_that_of_transformers_with_labels(setting: Setting, model: Any) -> None:
    whole = Perplexity(lengths=[LENGTH], stride=LENGTH - 1).measure(model, setting, ticked)
    tokens = torch.from_numpy(texts(setting))
    with torch.no_grad():
        expected = model.network(tokens, labels=tokens).loss.item()
    # transformers computes its loss in float32 for every model.
    assert whole["loss"][0] == pytest.approx(expected, rel=1e-6)
    assert whole["perplexity"][0] == pytest.approx(math.exp(expected), rel=1e-5)
    assert whole["tokens"] == [DOCUMENTS * (LENGTH - 1)]
    assert whole["bits_per_byte"][0] == pytest.approx(expected / math.log(2), rel=1e-6)  # a letter is a byte


class OneNat(Scorer):
    """Every token but the first costs one nat."""

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> np.ndarray:
        return np.where(np.arange(tokens.shape[1]) > 0, np.ones(tokens.shape), np.nan)

    def continuation(self, *given: Any) -> Any:
        raise AssertionError

    def answers(self, *given: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize("form", ["same_tokens", "strided"])
@pytest.mark.parametrize("family", ["gpt2", "three digits", "sentencepiece bpe"])
def test_bits_per_byte_count_the_bytes_of_the_text(family: str, form: str, model: Any) -> None:
    """Tokens have different numbers of bytes: bits are divided by the bytes of the scored text."""
    tokenizer = tokenizer_of(family)
    encoded = tokenizer.encode_batch(["".join(documents())[i * 900 : (i + 1) * 900] for i in range(3)])
    flat, bounds = np.concatenate(encoded), np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])])
    given = Setting(Tokens(flat.astype(np.uint16), bounds), tokenizer, 32, 64, seed=0, reading=OneNat())
    row = Perplexity(form=form, lengths=[40], stride=16, num_sequences=3).measure(model, given, ticked)
    # The last 16 of 40 tokens; or all tokens of windows that begin at 0, 16 and 32 of 80, but the first one.
    first, stop, scored = (24, 40, 16) if form == "same_tokens" else (1, 72, 71)
    parts = [(tokenizer.decode(ids[:stop]), tokenizer.decode(ids[:first])) for ids in encoded]
    assert all(whole.startswith(before) for whole, before in parts)
    size = sum(len(whole) - len(before) for whole, before in parts)  # letters and digits of one byte
    assert size > 1.2 * 3 * scored
    assert row["bits_per_byte"][0] == pytest.approx(3 * scored / math.log(2) / size, rel=1e-12)
    assert row["tokens"] == [3 * scored]


MIXED = "Ein Test, 深度学习模型 reads 😀👩‍👩‍👧 and 中文 naïvely. "


@pytest.mark.parametrize("cut", range(8))
@pytest.mark.parametrize("family", ["byte", "gpt2", "superwords", "sentencepiece bpe", "unigram with bytes"])
def test_bits_per_byte_are_those_of_the_source_text(family: str, cut: int, model: Any) -> None:
    """Windows that begin and end within characters of several tokens: -log2 p(text) / bytes."""
    tokenizer = tokenizer_of(family)
    ids = tokenizer.encode(MIXED * 4)
    # The bytes of the text up to each token, from prefixes of the text alone.
    sizes = np.full(len(ids) + 1, -1)
    text = tokenizer.decode(ids)
    assert text.strip() == (MIXED * 4).strip()
    for end in range(len(text) + 1):
        known = tokenizer.encode(text[:end])
        if np.array_equal(known, ids[: len(known)]) and tokenizer.decode(known) == text[:end]:
            sizes[len(known)] = len(text[:end].encode())
    for i in np.flatnonzero(sizes < 0):
        # A token within a character is a byte: these tokenizers have merged ASCII only.
        sizes[i] = sizes[i - 1] + 1
    length, stride = 60 + cut, 10 + cut
    flat, bounds = np.concatenate([ids[: 2 * length]] * 2), np.array([0, 2 * length, 4 * length])
    given = Setting(Tokens(flat.astype(np.uint16), bounds), tokenizer, 32, 64, seed=0, reading=OneNat())
    row = Perplexity(lengths=[length], stride=stride, num_sequences=2).measure(model, given, ticked)
    expected = stride / math.log(2) / (sizes[length] - sizes[length - stride])
    assert row["bits_per_byte"][0] == pytest.approx(expected, rel=1e-9)
    assert tokenizer.num_bytes(ids) == len(text.encode())


def test_each_token_is_predicted_from_the_tokens_before_it(setting: Setting, model: Any) -> None:
    tokens = texts(setting)[:2, :40]
    np.testing.assert_allclose(token_losses(model, setting, tokens, ticked), prefix_by_prefix(model, tokens), rtol=0, atol=1e-9)


def leaks(model: Any, setting: Setting) -> bool:
    """Whether a token changes the loss of an earlier one."""
    tokens = texts(setting)[:2, :40]
    changed = tokens.copy()
    changed[:, 30] = (changed[:, 30] + 1) % 26 + 97
    before, after = (token_losses(model, setting, rows, ticked)[:, :30] for rows in (tokens, changed))
    return not np.array_equal(before, after, equal_nan=True)


def test_a_later_token_changes_no_earlier_loss_and_a_leak_is_noticed(setting: Setting, model: Any) -> None:
    assert not leaks(model, setting)
    for layer in model.network.model.layers:
        layer.self_attn.is_causal = False
    assert leaks(model, setting)


def test_results_do_not_depend_on_batches_and_their_order(setting: Setting, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Perplexity(lengths=[32, 64])
    together = evaluation.measure(model, setting, ticked)
    monkeypatch.setattr(contexts, "BATCH_TOKENS", 1)
    alone = evaluation.measure(model, setting, ticked)
    for name in together:
        assert together[name] == pytest.approx(alone[name], abs=1e-9)


@pytest.mark.parametrize("filler", [0, 256])
def test_padding_changes_nothing(setting: Setting, model: Any, filler: int) -> None:
    tokens = texts(setting)[:3, :40]
    padded = np.pad(tokens, ((0, 0), (0, 25)), constant_values=filler)
    alone = token_losses(model, setting, tokens, ticked)
    np.testing.assert_allclose(token_losses(model, setting, padded, ticked)[:, :40], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_the_chunks_of_logits_change_nothing(setting: Setting, model: Any, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Perplexity(lengths=[32, 64])
    usual = evaluation.measure(model, setting, ticked)["loss"]
    sizes = []

    def split(states: torch.Tensor, size: int) -> Any:
        sizes.append(size)
        return whole(states, size)

    whole = torch.Tensor.split
    monkeypatch.setattr(torch.Tensor, "split", split)
    monkeypatch.setattr("elongate.scoring.token_loss.LOGIT_TOKENS", piece)
    assert evaluation.measure(model, setting, ticked)["loss"] == pytest.approx(usual, abs=1e-9)
    assert piece in sizes


@pytest.mark.slow
def test_the_same_tokens_are_scored_at_every_length(setting: Setting, model: Any) -> None:
    row = Perplexity(lengths=[20, 50, 150], stride=10).measure(model, setting, ticked)
    rows = texts(setting)[:, :150]
    for length, loss in zip((20, 50, 150), row["loss"], strict=True):
        read = rows[:, -length:]
        assert loss == pytest.approx(prefix_by_prefix(model, read, 10).mean(), abs=1e-9)
    assert row["tokens"] == [DOCUMENTS * 10] * 3


def test_windows_score_every_token_once_and_their_mean_is_another_figure(setting: Setting, model: Any) -> None:
    fields = {"lengths": [40], "stride": 15, "num_sequences": DOCUMENTS}
    rows = texts(setting)[:, :80]  # the text of two windows: starts 0, 15, 30
    windows = [token_losses(model, setting, rows[:, start : start + 40], ticked) for start in (0, 15, 30)]
    parts = [windows[0][:, 1:], windows[1][:, -15:], windows[2][:, -15:]]
    strided = Perplexity(form="strided", **fields).measure(model, setting, ticked)
    assert strided["loss"][0] == pytest.approx(np.concatenate(parts, axis=1).mean(), abs=1e-9)
    assert strided["tokens"] == [DOCUMENTS * (39 + 15 + 15)]
    mean = Perplexity(form="window_mean", **fields).measure(model, setting, ticked)
    assert mean["loss"][0] == pytest.approx(np.mean([part.mean() for part in parts]), abs=1e-9)
    assert mean["loss"][0] != pytest.approx(strided["loss"][0], abs=1e-5)
    # Documents have equally many tokens, so the error of the ratio is that of the mean of their means.
    means = np.concatenate(parts, axis=1).mean(axis=1)
    assert strided["standard_error"][0] == pytest.approx(means.std(ddof=1) / DOCUMENTS**0.5, abs=1e-12)


@pytest.mark.slow
def test_lengths_beyond_a_table_of_positions_have_no_figure(setting: Setting, build_tiny: Callable[..., Any]) -> None:
    short = build_tiny("model=gpt2").model.build(257, seed=0)  # 32 positions
    for evaluation in (Perplexity(lengths=[16, 32, 64]), ContextGain(lengths=[16, 32, 64])):
        row = evaluation.measure(short, setting, ticked)
        assert row["loss"][2] is None
        assert row["loss"][1] is not None
        json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("evaluation", [Perplexity(), ContextGain()], ids=lambda evaluation: evaluation.word)
def test_a_model_that_reads_both_sides_is_refused(setting: Setting, evaluation: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluation.header(replace(setting, reading=FillIn(0.15)))
    assert str(caught.value).startswith(f"evaluation=[{evaluation.word}]: needs a model that reads from left to right")
    assert str(caught.value).endswith("use evaluation=[curve,pseudo_perplexity]")


@pytest.mark.parametrize(
    ("kind", "fields", "line"),
    [
        (Perplexity, {"form": "mean"}, "x.form=mean: must be one of same_tokens, strided, window_mean; use x.form=same_tokens"),
        (Perplexity, {"stride": 64, "lengths": [64]}, "x.stride=64: must be at least 1 and below the shortest length"),
        (Perplexity, {"lengths": [64, 32]}, "x.lengths=[64,32]: must be one or more lengths of at least 2, the shortest first"),
        (ContextGain, {"num_scored": 0}, "x.num_scored=0: must be at least 1 and below the shortest length"),
        (ContextGain, {"num_sequences": 1}, "x.num_sequences=1: must be at least 2: one document gives no standard error"),
    ],
)
def test_invalid_fields_are_refused(kind: Any, fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**fields)
    assert str(caught.value.inside("x")).startswith(line)


def test_too_short_documents_are_refused(setting: Setting) -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation\.perplexity\.lengths=\[32,500\]: finds 0 held-out documents of 500 tokens, and needs 2"
    ):
        Perplexity(lengths=[32, 500]).header(setting)


def test_default_lengths_end_where_documents_end(setting: Setting) -> None:
    assert Perplexity().header(setting)["lengths"] == [32, 64, 128]
    assert Perplexity().header(replace(setting, target_length=4096))["lengths"] == [32, 64, 128]
    assert ContextGain().header(setting)["lengths"] == [4, 8, 16, 32, 64]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_perplexity_and_context_gain_are_on_the_page_and_repeated_by_evaluate(finished: Run, tmp_path: Any) -> None:
    results = finished.results
    for word in ("perplexity", "context_gain"):
        assert {"before", "untuned", "after"} <= results[word].keys()
    page = (finished.path / "report.html").read_text()
    assert f"{results['perplexity']['after']['perplexity'][0]:.2f}" in page
    assert f"{results['context_gain']['after']['gain'][0]:.3f}" in page
    again = evaluated(finished.path, tmp_path / "again", "evaluation=[perplexity]", "evaluation.perplexity.num_sequences=4")
    assert again["perplexity"]["after"]["loss"] == pytest.approx(results["perplexity"]["after"]["loss"], abs=1e-6)
