"""Every hidden token against the logits of transformers for a text in which only that token is hidden."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.conftest import trained
from tests.networks import VOCAB, network

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.evaluation import pseudo_perplexity
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.pseudo_perplexity import PseudoPerplexity
from elongate.models.language_model import LanguageModel
from elongate.scoring.fill_in import FillIn
from elongate.scoring.left_to_right import LeftToRight

MASK, DOCUMENTS, LENGTH = VOCAB - 1, 4, 64
EVALUATION = PseudoPerplexity(lengths=[16, 40], num_positions=4)


def ticked(text: str) -> None:
    pass


@pytest.fixture
def setting() -> Setting:
    flat = np.random.default_rng(0).integers(VOCAB - 1, size=DOCUMENTS * LENGTH).astype(np.uint16)
    held_out = Tokens(flat, np.arange(0, DOCUMENTS * LENGTH + 1, LENGTH))
    return Setting(held_out, ByteTokenizer(), 16, 64, seed=0, reading=FillIn(0.15))


def masked(kind: str) -> LanguageModel:
    model = LanguageModel(network(kind).eval(), kind)
    model.network.set_attn_implementation("elongate")
    model.mask_token = MASK
    return model


def alone(model: LanguageModel, setting: Setting, length: int, positions: list[int]) -> np.ndarray:
    """[document, position], one text at a time."""
    losses = np.empty((DOCUMENTS, len(positions)))
    for row in range(DOCUMENTS):
        text = torch.from_numpy(setting.held_out.flat[row * LENGTH : row * LENGTH + length].astype(np.int64))
        for column, position in enumerate(positions):
            hidden = text.clone()
            hidden[position] = MASK
            with torch.no_grad():
                losses[row, column] = -model.network(hidden[None]).logits[0, position].log_softmax(-1)[text[position]]
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_figures_agree_with_tokens_hidden_one_at_a_time(kind: str, setting: Setting) -> None:
    model, row = masked(kind), EVALUATION.measure(masked(kind), setting, ticked)
    header = EVALUATION.header(setting)
    assert header["positions"] == [[2, 6, 9, 13], [5, 15, 24, 34]]
    for i, length in enumerate((16, 40)):
        losses = alone(model, setting, length, header["positions"][i])
        assert row["loss"][i] == pytest.approx(losses.mean(), abs=1e-5)
        assert row["pseudo_perplexity"][i] == pytest.approx(math.exp(losses.mean()), rel=1e-5)
        assert row["standard_error"][i] == pytest.approx(losses.mean(axis=1).std(ddof=1) / DOCUMENTS**0.5, abs=1e-5)
        assert row["by_position"][i] == pytest.approx(losses.mean(axis=0), abs=1e-5)
        edge, middle = losses[:, [0, 3]].mean(), losses[:, [1, 2]].mean()
        assert row["by_edge"][i] == pytest.approx([edge, middle], abs=1e-5)


def test_batches_change_nothing(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    together = EVALUATION.measure(masked("bert"), setting, ticked)
    monkeypatch.setattr(pseudo_perplexity, "BATCH_TOKENS", 1)
    assert EVALUATION.measure(masked("bert"), setting, ticked)["loss"] == pytest.approx(together["loss"], abs=1e-6)


def test_lengths_beyond_the_table_have_no_figure(setting: Setting) -> None:
    table = masked("bert").network.config.max_position_embeddings
    longer = replace(setting, held_out=Tokens(np.tile(setting.held_out.flat, 8), np.arange(0, 8 * DOCUMENTS * LENGTH + 1, 512)))
    row = PseudoPerplexity(lengths=[16, 2 * table], num_positions=4).measure(masked("bert"), longer, ticked)
    assert row["loss"][1] is row["by_edge"][1] is None
    assert row["loss"][0] > 0
    json.dumps(row, allow_nan=False)


def test_a_model_that_reads_from_left_to_right_is_refused(setting: Setting) -> None:
    with pytest.raises(ConfigError) as caught:
        PseudoPerplexity().header(replace(setting, reading=LeftToRight()))
    assert str(caught.value).startswith("evaluation=[pseudo_perplexity]: needs a model that predicts hidden tokens")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"num_positions": 5}, "x.num_positions=5: must be an even number from 2 to the shortest length"),
        ({"num_positions": 20, "lengths": [16]}, "x.num_positions=20: must be an even number from 2 to the shortest length"),
        ({"lengths": [32, 16]}, "x.lengths=[32,16]: must be one or more lengths of at least 2, the shortest first"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PseudoPerplexity(**fields)
    assert str(caught.value.inside("x")).startswith(line)


@pytest.mark.slow
def test_it_is_on_the_page_of_a_masked_model(tmp_path: Path) -> None:
    words = [
        "model=bert",
        "objective=masked",
        "context=interpolate",
        "context.target_length=64",
        "evaluation=[pseudo_perplexity]",
    ]
    run = trained(tmp_path, *words, "evaluation.pseudo_perplexity.num_positions=4")
    section = run.results["pseudo_perplexity"]
    assert section["lengths"] == [32, 64]
    assert section["before"]["loss"][1] is None
    assert f"{section['after']['pseudo_perplexity'][1]:,.2f}" in (run.path / "report.html").read_text()
