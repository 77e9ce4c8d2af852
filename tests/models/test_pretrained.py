"""Masked checkpoints: opened, refused for what they cannot learn, and measured as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertLMHeadModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from elongate.cli import conf_directory
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.evaluate import evaluate_checkpoint
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

SIZES = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
BERT = BertConfig(**SIZES, max_position_embeddings=64, pad_token_id=None)
DISTILBERT = DistilBertConfig(vocab_size=258, dim=32, hidden_dim=48, n_layers=1, n_heads=4, max_position_embeddings=64, pad_token_id=None)
GPT2 = GPT2Config(vocab_size=258, n_positions=64, n_embd=32, n_layer=1, n_head=2)


def saved(network: PreTrainedModel, folder: Path) -> Path:
    network.save_pretrained(folder)
    ByteTokenizer().with_mask().save(folder)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return saved(BertForMaskedLM(BERT), tmp_path / "bert")


@pytest.mark.parametrize(
    ("network", "able"),
    [
        (lambda: BertForMaskedLM(BERT), "masked"),
        (lambda: BertForPreTraining(BERT), "masked"),
        (lambda: BertLMHeadModel(BertConfig(**BERT.to_dict() | {"is_decoder": True})), "causal"),
        (lambda: DistilBertForMaskedLM(DISTILBERT), "masked"),
        (lambda: GPT2LMHeadModel(GPT2), "causal"),
    ],
    ids=["masked", "pre-training", "decoder", "masked only", "causal"],
)
def test_a_checkpoint_is_opened_with_the_head_that_it_was_saved_with(network: Any, able: str, tmp_path: Path) -> None:
    network = network().eval()
    folder = saved(network, tmp_path / "checkpoint")
    model = Pretrained(source=str(folder)).build(258, seed=0)
    assert able in model.has
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        theirs = network(tokens)
        logits = theirs.prediction_logits if hasattr(theirs, "prediction_logits") else theirs.logits
        ours = torch.nn.functional.linear(model.before_head(model.hidden(tokens)), *model.head)
    assert_close(ours, logits, rtol=0, atol=1e-5)


def test_a_masked_checkpoint_is_told_apart_by_its_architecture_alone_where_it_names_no_head(tmp_path: Path) -> None:
    folder = saved(DistilBertForMaskedLM(DISTILBERT), tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "masked" in Pretrained(source=str(folder)).build(258, seed=0).has


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["context=none"],
            "objective=causal: needs a model that reads from left to right, which model=pretrained does not; use objective=masked",
        ),
        (["objective=masked", "context=yarn", "context.target_length=256"], "use context/position=interpolate"),
    ],
)
def test_what_a_masked_checkpoint_cannot_do_is_told_in_one_line(
    overrides: list[str], line: str, bert: Path, build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path
) -> None:
    job = build_tiny(
        "model=pretrained", f"model.source={bert}", "data=text", f"data.path={text_folder}", "context.target_length=64", *overrides
    )
    with pytest.raises(ConfigError) as told:
        run(job, RunDirectory(tmp_path / "run"))
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_a_causal_tokenizer_cannot_hide(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path) -> None:
    folder = saved(BertForMaskedLM(BERT), tmp_path / "bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": config["eos_token"]}))
    job = build_tiny(
        "model=pretrained", f"model.source={folder}", "objective=masked", "context=interpolate", "data=text", f"data.path={text_folder}"
    )
    with pytest.raises(ConfigError, match="tokenizer=pretrained: has no mask token"):
        run(job, RunDirectory(tmp_path / "run"))


def evaluated(checkpoint: Path, directory: Path, *overrides: str) -> dict[str, Any]:
    directory.mkdir()
    few = ["evaluation=[curve,needle]", "evaluation.curve.num_sequences=4", "evaluation.needle.num_samples=2"]
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("evaluate", overrides=[f"checkpoint={checkpoint}", *few, *overrides])
    return evaluate_checkpoint(config, conf_directory(), directory)


def test_a_masked_checkpoint_is_measured_by_what_it_fills_in(bert: Path, text_folder: Path, tmp_path: Path) -> None:
    results = evaluated(bert, tmp_path / "evaluation", "data=text", f"data.path={text_folder}", f"data.cache={tmp_path}/cache")
    assert results["curve"]["length"] == 64  # its own: it reads no farther
    assert all(2 < loss < 12 for loss in results["curve"]["table"]["after"]["loss"])
    assert results["needle"]["lengths"] == [64]
    assert all(value is not None for value in results["needle"]["after"]["margin"][0])
    assert (tmp_path / "evaluation/report.html").exists()


def test_beyond_its_table_of_positions_nothing_is_measured_and_the_report_says_so(bert: Path, text_folder: Path, tmp_path: Path) -> None:
    more = ["data=text", f"data.path={text_folder}", f"data.cache={tmp_path}/cache", "context.target_length=128"]
    results = evaluated(bert, tmp_path / "evaluation", *more)
    assert [loss is None for loss in results["curve"]["table"]["after"]["loss"]] == [False, False, True]
    assert results["needle"]["lengths"] == [64, 128]
    for measure in ("margin", "exact_match", "log_probability"):
        assert results["needle"]["after"][measure][1] == [None] * 5
    assert (tmp_path / "evaluation/report.html").exists()
