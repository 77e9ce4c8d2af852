"""Positions that a model must be trained with from its base on: whole runs, tiny."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tests.interrupts import SignalAfter
from tests.networks import NO_SPECIAL
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from elongate.cli import conf_directory
from elongate.errors import Stopped
from elongate.evaluate import evaluate_checkpoint
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory


@pytest.fixture
def ran(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a tiny job on a few documents and returns its directory and results."""
    monkeypatch.chdir(tmp_path)

    def ran(name: str, *overrides: str) -> tuple[RunDirectory, dict[str, Any]]:
        directory = RunDirectory(tmp_path / name)
        directory.path.mkdir(exist_ok=True)
        base = () if "model=pretrained" in overrides else ("context.curriculum.base.steps=2",)
        words = ("data=text", f"data.path={text_folder}", "training.checkpoint_steps=1", *base, *overrides)
        return directory, run(build_tiny(*words), directory)

    return ran


def evaluated(checkpoint: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    folder.mkdir()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("evaluate", overrides=[f"checkpoint={checkpoint}", *overrides])
    return evaluate_checkpoint(config, conf_directory(), folder)[0]


def test_the_base_is_trained_with_it_and_shared_with_no_other(ran: Callable[..., Any], tmp_path: Path, capfd: Any) -> None:
    directory, results = ran("alibi", "context=alibi")
    said = capfd.readouterr().out
    assert (
        "position alibi: active. 4 slopes 0.25 … 0.00391 per token, the model's own positions are switched off; matches its definition to"
        in said
    )
    assert f"plain transformers cannot express alibi: evaluate with python evaluate.py checkpoint={directory.path}" in said
    assert results["strategy"]["proof"]["slopes"] == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]
    base = Path(results["budget"]["base"]["path"])
    opened = Pretrained(source=str(base / "model")).build(257, seed=0)
    assert opened.position.word == "alibi"
    assert [line["step"] for line in directory.read_metrics()] == [1, 2, 3, 4, 5]

    _, plain = ran("plain", "context=yarn", "evaluation=[]")
    assert plain["budget"]["base"]["path"] != str(base)
    _, same = ran("same", "context=alibi", "evaluation=[]", "memory=stream", "memory.chunk_length=48")
    assert same["budget"]["base"]["path"] == str(base)
    assert same["stages"][0]["loss"] == pytest.approx(results["stages"][0]["loss"], abs=1e-5)

    # Not trained any further it is what it was, at every length; and so it is measured.
    assert results["curve"]["table"]["before"] == results["curve"]["table"]["untuned"] != results["curve"]["table"]["after"]
    again = evaluated(directory.path, tmp_path / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    assert again["needle"]["after"] == results["needle"]["after"]
    lengths = (
        "model.original_length=32",
        "context.target_length=128",
        "data=text",
        f"data.path={tmp_path}/text",
        "tokenizer=byte",
        "seed=0",
    )
    small = ("evaluation=[curve]", "evaluation.curve.num_sequences=4")
    alone = evaluated(base / "model", tmp_path / "base", *lengths, *small)
    assert alone["curve"]["table"]["after"] == results["curve"]["table"]["before"]
    with pytest.raises(ValueError, match="has model type `elongate-llama`"):
        AutoModelForCausalLM.from_pretrained(directory.model)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    ran: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("context=alibi", "evaluation=[]")
    whole, _ = ran("whole", *words)
    stops = 0
    for looks in (3, 1, 2):
        with monkeypatch.context() as patched:
            patched.setattr("elongate.training.run.Interrupt", lambda looks=looks: SignalAfter(looks))
            try:
                ran("stopped", *words, "name=other")
            except Stopped:
                stops += 1
    assert stops > 0
    stopped, _ = ran("stopped", *words, "name=other")
    found, expected = (load_file(directory.model / "model.elongate.safetensors") for directory in (stopped, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("tuning", ["full", "lora_plus"])
def test_a_checkpoint_loses_its_positions_for_good_and_is_told_so(tuning: str, ran: Callable[..., Any], tmp_path: Path, capfd: Any) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **NO_SPECIAL}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    source = ("model=pretrained", f"model.source={tmp_path}/gpt2", "tokenizer=byte", "context=alibi")
    directory, results = ran("first", *source, f"tuning={tuning}", "evaluation.needle.lengths=[64]")
    warned = capfd.readouterr().err
    assert "alibi replaces the positions that the checkpoint was trained with, which needs long training" in warned
    weights = load_file(directory.model / "model.elongate.safetensors")
    (table,) = [tensor for name, tensor in weights.items() if "wpe" in name]
    assert table.shape == (128, 32)
    assert not table.any()
    # Four times the target: no table ends.
    curve = results["curve"]["table"]
    assert curve["edges"][-1] == 512
    assert None not in curve["after"]["loss"]
    assert None in curve["before"]["loss"]

    again = ("model=pretrained", f"model.source={directory.model}", "tokenizer=byte", "context=alibi", "context.target_length=256")
    ran("second", *again, "evaluation=[]")
    assert "takes the place" not in capfd.readouterr().err
