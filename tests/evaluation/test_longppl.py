"""Key tokens by hand: from given losses, and from a model's losses computed window by window."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import evaluated
from tests.evaluation.conftest import Run, trained
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from elongate.data.sequences import Batch
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.longppl import LongPPL
from elongate.evaluation.measurement.contexts import token_losses
from elongate.evaluation.measurement.samples import Samples
from elongate.objectives.longce import LongCE
from elongate.scoring.fill_in import FillIn
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

DOCUMENTS, LENGTH = 6, 64


@pytest.fixture
def setting() -> Setting:
    flat = np.random.default_rng(0).integers(97, 123, size=DOCUMENTS * LENGTH).astype(np.uint16)
    bounds = np.arange(0, DOCUMENTS * LENGTH + 1, LENGTH)
    return Setting(Tokens(flat, bounds), ByteTokenizer(), 16, 64, seed=0, reading=LeftToRight())


def ticked(text: str) -> None:
    pass


class Copies(Scorer):
    """A letter costs 3 nats, or 0.5 if the same one is `lag` tokens earlier; `read` lists the lengths of texts."""

    def __init__(self, lag: int) -> None:
        self.lag, self.read = lag, list[int]()

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> np.ndarray:
        self.read.append(tokens.shape[1])
        losses = np.full(tokens.shape, 3.0)
        seen = tokens[:, self.lag :] == tokens[:, : -self.lag]
        losses[:, self.lag :][seen] = 0.5
        losses[:, 0] = np.nan
        return losses

    def continuation(self, *given: Any) -> Any:
        raise AssertionError

    def answers(self, *given: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize("stride", [1, 4, 7])
def test_key_tokens_are_those_that_only_the_long_context_predicts(setting: Setting, model: Any, stride: int) -> None:
    reading = Copies(30)
    evaluation = LongPPL(length=64, short_length=16, stride=stride)
    row = evaluation.measure(model, replace(setting, reading=reading), ticked)
    rows = setting.held_out.flat.reshape(DOCUMENTS, LENGTH)
    repeated = int((rows[:, 30:] == rows[:, :-30]).sum())
    assert repeated > 0
    assert row["key_tokens"] == repeated
    assert row["key_ratio"] == pytest.approx(repeated / (DOCUMENTS * 47))
    assert row["loss"] == pytest.approx(0.5)
    assert row["longppl"] == pytest.approx(math.exp(0.5))
    assert row["perplexity"] == pytest.approx(math.exp(3 - 2.5 * repeated / (DOCUMENTS * 47)))
    assert reading.read[0] == 64
    assert set(reading.read[1:]) == {17}  # never more than a short context, and the last token


def test_a_token_that_a_short_context_predicts_is_not_a_key(setting: Setting, model: Any) -> None:
    row = LongPPL(length=64, short_length=16, stride=1).measure(model, replace(setting, reading=Copies(10)), ticked)
    assert row["key_tokens"] == 0
    assert row["longppl"] is row["loss"] is row["standard_error"] is None
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("stride", [1, 6])
def test_a_short_context_is_that_of_the_objective_longce(setting: Setting, model: Any, stride: int) -> None:
    texts, short = setting.held_out.flat.reshape(DOCUMENTS, LENGTH)[:3, :41].astype(np.int64), 16
    evaluation = LongPPL(length=41, short_length=short, stride=stride)
    gains = (
        evaluation._short_losses(model, setting, texts, short, stride, ticked) - token_losses(model, setting, texts, ticked)[:, short + 1 :]
    )
    (example,) = LongCE(short_length=short, stride=stride, max_weight=1e9).examples(Batch(texts, None, None), model)
    assert example.weights is not None
    np.testing.assert_allclose(example.weights[:, short:].log().numpy(), gains, atol=1e-6)


def prefix_loss(model: Any, tokens: np.ndarray, position: int, start: int) -> float:
    with torch.no_grad():
        logits = model.network(torch.from_numpy(tokens[None, start:position].astype(np.int64))).logits[0, -1]
    return -logits.log_softmax(-1)[int(tokens[position])].item()


@pytest.mark.slow
def test_key_tokens_of_a_model_against_one_prefix_at_a_time(setting: Setting, model: Any) -> None:
    short, stride, gain, limit = 16, 5, 0.1, 6.0
    evaluation = LongPPL(length=40, short_length=short, stride=stride, min_gain=gain, max_loss=limit)
    row = evaluation.measure(model, setting, ticked)
    kept = []
    for text in setting.held_out.flat.reshape(DOCUMENTS, LENGTH):
        for position in range(short + 1, 40):
            window_end = min(short + 1 + ((position - short - 1) // stride + 1) * stride, 40)
            long = prefix_loss(model, text, position, 0)
            if prefix_loss(model, text, position, window_end - short - 1) - long > gain and long < limit:
                kept.append(long)
    assert row["key_tokens"] == len(kept) > 5
    assert row["loss"] == pytest.approx(np.mean(kept), abs=1e-9)


@pytest.mark.slow
def test_an_evaluator_chooses_the_key_tokens_once_for_all_rows(finished: Run, tmp_path: Path) -> None:
    fields = ["evaluation=[longppl]", "evaluation.longppl.min_gain=0.001", "evaluation.longppl.max_loss=9"]
    evaluator = f"evaluation.longppl.evaluator={finished.path}"
    run = trained(tmp_path, "seed=1", *fields, evaluator)
    section = run.results["longppl"]
    assert section["before"]["key_tokens"] == section["after"]["key_tokens"] == section["untuned"]["key_tokens"] > 0
    assert section["before"]["loss"] != section["after"]["loss"]
    chosen = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()[1:]]
    keys = [record["keys"] for record in chosen if (record["evaluation"], record["row"]) == ("longppl", "evaluator")]
    assert len(keys) == section["n"]
    assert sum(map(len, keys)) == section["after"]["key_tokens"]
    assert f"{section['after']['longppl']:,.2f}" in (run.path / "report.html").read_text()
    # The evaluator's own choice for itself is the same, for the same held-out documents.
    data = ["data=text", f"data.path={tmp_path}/text", f"data.cache={tmp_path}/cache", "seed=1"]
    own = evaluated(finished.path, tmp_path / "own", *fields, *data)
    assert own["longppl"]["after"]["key_tokens"] == section["after"]["key_tokens"]


def test_chosen_key_tokens_are_reused(setting: Setting, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = LongPPL(length=64, short_length=16, evaluator="/somewhere")
    opened = []

    def open_once(self: Any, given: Any, length: int) -> Any:
        opened.append(length)
        return model

    monkeypatch.setattr(LongPPL, "_evaluator", open_once)
    part = replace(setting, reading=Copies(30), samples=Samples().part("longppl", "after"))
    once, again = (evaluation.measure(model, part, ticked) for _ in range(2))
    assert once == again
    assert opened == [64]


def test_a_table_of_positions_that_is_too_short_gives_no_figure(setting: Setting, build_tiny: Callable[..., Any]) -> None:
    short = build_tiny("model=gpt2").model.build(257, seed=0)  # 32 positions
    row = LongPPL(length=64, short_length=16).measure(short, setting, ticked)
    assert row["longppl"] is None
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"stride": 16, "short_length": 16}, "x.stride=16: must be at least 1 and below short_length"),
        ({"short_length": 1}, "x.short_length=1: must be at least 2"),
        ({"max_loss": 0}, "x.max_loss=0: must be above 0 nats"),
        ({"num_sequences": 1}, "x.num_sequences=1: must be at least 2"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LongPPL(**fields)
    assert str(caught.value.inside("x")).startswith(line)


def test_impossible_settings_are_refused(setting: Setting) -> None:
    with pytest.raises(ConfigError, match=r"evaluation=\[longppl\]: needs a model that reads from left to right"):
        LongPPL().header(replace(setting, reading=FillIn(0.15)))
    with pytest.raises(ConfigError, match=r"evaluation\.longppl\.short_length=64: is not below the context of the last of 64 tokens"):
        LongPPL(short_length=64).header(setting)
    with pytest.raises(ConfigError, match=r"evaluation\.longppl\.length=500: finds 0 held-out documents of 500 tokens"):
        LongPPL(length=500).header(setting)
    with pytest.raises(ConfigError, match=r"evaluation\.longppl\.evaluator=/not/there: there is no such folder"):
        LongPPL(evaluator="/not/there").header(setting)
    with pytest.raises(
        ConfigError, match=r"evaluation\.longppl\.stride=16: must be below short_length, 16; use evaluation\.longppl\.stride=null"
    ):
        LongPPL(stride=16).header(setting)


@pytest.mark.parametrize(
    ("network", "rule"),
    [
        (
            GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1)),
            "gives ids up to 256, and the checkpoint's embedding has 50 rows",
        ),
        (GPT2LMHeadModel(GPT2Config(vocab_size=257, n_positions=32, n_embd=8, n_layer=1, n_head=1)), "has no positions for 64 tokens"),
        (
            BertForMaskedLM(BertConfig(vocab_size=257, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)),
            "does not read from left to right",
        ),
        (
            GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=1, index_topk=2)),
            "is a gpt2, whose attention chooses its keys with an indexer",
        ),
    ],
    ids=["vocabulary", "positions", "masked", "not computed alike"],
)
def test_an_evaluator_that_cannot_read_the_texts_is_refused(network: Any, rule: str, setting: Setting, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "evaluator")
    with pytest.raises(ConfigError) as caught:
        LongPPL(length=64, evaluator=str(tmp_path / "evaluator")).header(setting)
    assert str(caught.value).startswith(f"evaluation.longppl.evaluator={tmp_path}/evaluator: {rule}")


@pytest.mark.slow
def test_an_evaluator_that_was_measured_with_another_attention_is_refused(finished: Run, setting: Setting) -> None:
    finished.results["strategy"]["evaluation_attention"] = "window"
    (finished.path / "results.json").write_text(json.dumps(finished.results))
    with pytest.raises(ConfigError, match=r"evaluator=.*: was measured with attention window, and is read with full attention here"):
        LongPPL(evaluator=str(finished.path)).header(setting)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_changed_evaluator_at_the_same_path_chooses_again(finished: Run, tmp_path: Path) -> None:
    other = shutil.copytree(finished.path, tmp_path / "other")
    fields = ["evaluation=[longppl]", "evaluation.longppl.min_gain=0.001", "evaluation.longppl.max_loss=9"]
    fields.append(f"evaluation.longppl.evaluator={other}")
    first = evaluated(finished.path, tmp_path / "again", *fields)["longppl"]["after"]["key_tokens"]
    file = other / "model/model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    os.utime(file)
    assert evaluated(finished.path, tmp_path / "again", *fields)["longppl"]["after"]["key_tokens"] != first
