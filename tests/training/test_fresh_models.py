"""Whole tiny runs of every fresh model as it comes: base, extension, curve, needle, and the exported folder in plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from elongate.cli import conf_directory
from elongate.evaluate import evaluate_checkpoint
from elongate.models.pretrained import Pretrained
from elongate.training.plan import plan
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

WORDS = ["gpt2", "bert", "modernbert"]


def evaluated(directory: RunDirectory, into: Path) -> dict[str, Any]:
    into.mkdir()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("evaluate", overrides=[f"checkpoint={directory.path}"])
    return evaluate_checkpoint(config, conf_directory(), into)[0]


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_a_whole_run(word: str, build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    job = build_tiny(f"model={word}", "data=text", f"data.path={text_folder}", "context.curriculum.base.steps=2")
    results = run(job, directory)

    masked = word != "gpt2"
    assert results["strategy"]["objective"] == ("masked" if masked else "causal")
    assert results["strategy"]["position"] == ("yarn" if word == "modernbert" else "interpolate")
    assert [line["length"] for line in directory.read_metrics()] == [32, 32, 128, 128, 128]
    # A model that sees both sides is read to the target, any other to four times that.
    assert results["curve"]["length"] == (128 if masked else 512)
    assert results["needle"]["lengths"] == ([64, 128] if masked else [64, 128, 256])
    edges = results["curve"]["table"]["edges"]
    for row, end in (("before", 32), ("untuned", 128), ("after", 128)):
        measured = [loss is not None for loss in results["curve"]["table"][row]["loss"]]
        # Positions that are computed go on; a table has an end.
        assert measured == [word == "modernbert" or stop <= end for stop in edges[1:]]

    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    opened = auto.from_pretrained(directory.model)
    ours = Pretrained(source=str(directory.model)).build(opened.config.vocab_size, seed=0)
    tokens = torch.randint(256, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = torch.nn.functional.linear(ours.head_inputs(ours.hidden(tokens)), *ours.head)
        assert_close(opened(tokens).logits, logits, rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    assert tokenizer.mask_token_id == (257 if masked else None)
    assert len(tokenizer) == opened.config.vocab_size
    # Measured again on its own, it has the same figures.
    again = evaluated(directory, tmp_path / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    assert again["needle"]["after"] == results["needle"]["after"]


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_every_model_is_planned(word: str, build_tiny: Callable[..., Any], text_folder: Path) -> None:
    # A dry run goes through the blocks of a window one by one, so narrow windows take minutes.
    wide = ["model.local_length=1024"] if word == "modernbert" else []
    printed = plan(build_tiny(f"model={word}", *wide, "data=text", f"data.path={text_folder}", "evaluation=[]"))
    assert "memory=plain" in printed
    assert "memory=checkpoint" in printed
    assert "recommended: memory=" in printed
    assert ("objective=masked has other targets" in printed) == (word in ("bert", "modernbert"))


def test_isolated_documents_and_every_memory_give_a_sound_masked_run(
    build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    losses = {}
    for name, more in {"plain": [], "parts": ["memory.micro_batch_tokens=1"], "checkpoint": ["memory=checkpoint"]}.items():
        directory = RunDirectory(tmp_path / name)
        directory.path.mkdir()
        settings = ["model=bert", "model.dropout=0", "evaluation=[]", "data.isolate_documents=true", "context.curriculum.base.steps=2"]
        results = run(build_tiny("data=text", f"data.path={text_folder}", *settings, *more), directory)
        losses[name] = results["stages"][0]["loss"]
    assert losses["parts"] == pytest.approx(losses["plain"], abs=1e-5)
    assert losses["checkpoint"] == pytest.approx(losses["plain"], abs=1e-5)
