"""Tiny runs with positions that the base must already be trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import evaluated
from tests.interrupts import SignalAfter
from tests.networks import NO_SPECIAL
from tests.training.conftest import Workshop
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from elongate.errors import Stopped
from elongate.models.pretrained import Pretrained


@pytest.fixture(scope="module")
def alibi(start: Workshop) -> tuple[Any, dict[str, Any]]:
    """A finished run with ALiBi."""
    return start("alibi", "context=alibi", "evaluation=[curve,needle]")


@pytest.mark.slow
def test_the_base_is_trained_with_alibi_and_not_shared_with_other_positions(alibi: Any, start: Workshop) -> None:
    directory, results = alibi
    assert results["strategy"]["proof"]["slopes"] == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]
    base = Path(results["budget"]["base"]["path"])
    opened = Pretrained(source=str(base / "model")).build(257, seed=0)
    assert opened.position.word == "alibi"
    assert [line["step"] for line in directory.read_metrics()] == [1, 2, 3, 4, 5]
    _, plain = start("plain", "context=yarn", "evaluation=[]")
    assert plain["budget"]["base"]["path"] != str(base)
    _, same = start("same", "context=alibi", "evaluation=[]", "memory=stream", "memory.chunk_length=48")
    assert same["budget"]["base"]["path"] == str(base)
    assert same["stages"][0]["loss"] == pytest.approx(results["stages"][0]["loss"], abs=1e-5)


@pytest.mark.slow
def test_evaluate_gives_the_figures_of_the_run(alibi: Any, start: Workshop, tmp_path: Path) -> None:
    directory, results = alibi
    # Without training the extension changes nothing, at any length.
    assert results["curve"]["table"]["before"] == results["curve"]["table"]["untuned"] != results["curve"]["table"]["after"]
    again = evaluated(directory.path, tmp_path / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    assert again["needle"]["after"] == results["needle"]["after"]
    lengths = ("model.original_length=32", "context.target_length=128", "evaluation=[curve]", "evaluation.curve.num_sequences=4")
    text = ("data=text", f"data.path={start.text}", "tokenizer=byte", "seed=0")
    base = Path(results["budget"]["base"]["path"])
    alone = evaluated(base / "model", tmp_path / "base", *lengths, *text)
    assert alone["curve"]["table"]["after"] == results["curve"]["table"]["before"]
    with pytest.raises(ValueError, match="has model type `elongate-llama`"):
        AutoModelForCausalLM.from_pretrained(directory.model)


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_weights(
    alibi: Any, start: Workshop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("context=alibi", "evaluation=[]", "training.checkpoint_steps=1", "name=other")
    for looks in (1, 0):
        with monkeypatch.context() as patched:
            patched.setattr("elongate.training.run.Interrupt", lambda looks=looks: SignalAfter(looks))
            with pytest.raises(Stopped, match=f"at step {4 if looks else 5}"):
                start("stopped", *words)
    stopped, _ = start("stopped", *words)
    printed = capfd.readouterr().out
    assert "position alibi: active. 4 slopes 0.25 … 0.00391 per token, the model's own positions are switched off;" in printed
    assert f"plain transformers cannot express alibi: evaluate with python evaluate.py checkpoint={stopped.path}" in printed
    ours, expected = (load_file(directory.model / "model.elongate.safetensors") for directory in (stopped, alibi[0]))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora_plus"])
def test_a_checkpoint_loses_its_positions_with_a_warning(tuning: str, start: Workshop, tmp_path: Path, capfd: Any) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **NO_SPECIAL}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    source = ("model=pretrained", f"model.source={tmp_path}/gpt2", "tokenizer=byte", "context=alibi")
    directory, results = start(f"first-{tuning}", *source, f"tuning={tuning}")
    warned = capfd.readouterr().err
    assert "alibi replaces the positions that the checkpoint was trained with, which needs long training" in warned
    weights = load_file(directory.model / "model.elongate.safetensors")
    (table,) = [tensor for name, tensor in weights.items() if "wpe" in name]
    assert table.shape == (128, 32)
    assert not table.any()
    # Measured up to four times the target, because there is no table that ends.
    curve = results["curve"]["table"]
    assert curve["edges"][-1] == 512
    assert None not in curve["after"]["loss"]
    assert None in curve["before"]["loss"]

    again = ("model=pretrained", f"model.source={directory.model}", "tokenizer=byte", "context=alibi", "context.target_length=256")
    start(f"second-{tuning}", *again, "evaluation=[]")
    assert "replaces the positions" not in capfd.readouterr().err
