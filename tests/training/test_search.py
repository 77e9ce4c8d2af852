"""LongRoPE's search inside a run: what it is tried on, that it is done once, and that it is what is trained and exported."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from elongate.atomic import remove
from elongate.console import SearchBar
from elongate.context.position.rotary import Rotary
from elongate.context.position.yarn import Yarn
from elongate.data.tokens import load_corpus
from elongate.errors import ConfigError, Stopped
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

SEARCH = {"population": 6, "iterations": 3, "mutations": 2, "crossovers": 2, "parents": 3, "num_documents": 2}
WORDS = [
    "context=longrope",
    "context.curriculum.base.steps=20",
    "optimizer.lr=0.005",
    "evaluation=[]",
    *(f"context.position.search.{key}={value}" for key, value in SEARCH.items()),
]


@pytest.fixture
def start(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts a tiny run on a few documents; its directory and results."""
    monkeypatch.chdir(tmp_path)

    def start(name: str, *overrides: str) -> tuple[RunDirectory, dict[str, Any]]:
        directory = RunDirectory(tmp_path / name)
        directory.path.mkdir(exist_ok=True)
        return directory, run(build_tiny("data=text", f"data.path={text_folder}", *WORDS, *overrides), directory)

    return start


def written(directory: RunDirectory) -> dict[str, Any]:
    return json.loads((directory.path / "longrope.json").read_text())


def test_what_is_found_is_written_trained_and_exported(start: Callable[..., Any]) -> None:
    directory, results = start("run")
    found = written(directory)
    assert (np.diff(found["losses"]) <= 0).all()
    assert found["losses"][-1] == found["loss"] <= min(begun["loss"] for begun in found["starts"].values())
    assert (np.diff(found["long_factor"]) >= 0).all()
    assert found["num_tried"] == 6 + 3 * 4
    parameters = results["strategy"]["proof"]["rope_parameters"]
    assert (parameters["long_factor"], parameters["short_factor"]) == (found["long_factor"], [1.0] * 4)
    assert AutoConfig.from_pretrained(directory.model).rope_parameters["long_factor"] == found["long_factor"]


def test_the_loss_is_that_of_plain_transformers_on_long_training_documents(
    start: Callable[..., Any], build_tiny: Callable[..., Any]
) -> None:
    directory, results = start("run")
    found = written(directory)
    base = Path(results["budget"]["base"]["path"]) / "model"
    job = build_tiny("data=text", f"data.path={directory.path.parent / 'text'}", *WORDS)
    train = load_corpus(job.data, job.tokenizer.fit(job.data)).train
    rotary = Rotary(8, 1e4, 32)
    attention_factor = float(np.sqrt(1 + np.log(4) / np.log(32)))
    # YaRN's own frequencies, sharpened as LongRoPE is.
    yarn = Yarn().rope_parameters(rotary, 4.0) | {"attention_factor": attention_factor}
    best = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 4,
        "long_factor": found["long_factor"],
    }
    for parameters, loss in ((yarn, found["starts"]["yarn"]["loss"]), (best, found["loss"])):
        opened = AutoModelForCausalLM.from_pretrained(base, rope_parameters=parameters, max_position_embeddings=128)
        losses = []
        for document in found["documents"]:
            begin = train.bounds[document]
            tokens = torch.from_numpy(train.flat[begin : begin + 129].astype(np.int64))
            with torch.no_grad():
                losses.append(F.cross_entropy(opened(tokens[None, :-1]).logits[0], tokens[1:]).item())
        assert loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert found["loss"] < found["starts"]["yarn"]["loss"]


def test_held_out_documents_are_only_for_the_comparison(start: Callable[..., Any]) -> None:
    directory, _ = start("run")
    held_out = written(directory)["held_out"]
    assert held_out["n"] > 0
    for other in ("yarn", "yarn_factors"):
        assert held_out[other]["gain"] == pytest.approx(held_out[other]["loss"] - held_out["found"], abs=1e-12)


def test_the_same_seed_finds_the_same_and_a_stopped_search_begins_again(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = start("whole")
    step = SearchBar.step

    def interrupted(self: SearchBar, done: int, total: int, best: float) -> None:
        step(self, done, total, best)
        if done == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(SearchBar, "step", interrupted)
        with pytest.raises(Stopped, match="stopped by SIGTERM in the search"):
            start("stopped")
    stopped, _ = start("stopped")
    assert written(stopped) == written(directory)
    other, _ = start("other", "seed=1")
    assert written(other)["long_factor"] != written(directory)["long_factor"]


def test_a_run_that_goes_on_takes_what_was_found(start: Callable[..., Any]) -> None:
    directory, _ = start("run")
    file = directory.path / "longrope.json"
    file.write_text(json.dumps(written(directory) | {"long_factor": [1.0, 2.0, 3.0, 4.0]}))
    for path in (directory.results, directory.checkpoints, directory.metrics, directory.model):
        remove(path)
    _, results = start("run")
    assert results["strategy"]["proof"]["rope_parameters"]["long_factor"] == [1.0, 2.0, 3.0, 4.0]


def test_the_file_of_one_run_is_taken_by_another(start: Callable[..., Any]) -> None:
    directory, first = start("first")
    defaults = ["~context.position.search"]
    second, results = start("second", f"context.position.factors={directory.path / 'longrope.json'}", *defaults)
    assert not (second.path / "longrope.json").exists()
    assert results["strategy"]["proof"]["rope_parameters"] == first["strategy"]["proof"]["rope_parameters"]


def test_too_few_long_documents_are_told_before_a_base_is_trained(start: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_documents=999: needs so many training documents of 129 tokens .* has (\d+); use .*=\1"):
        start("run", "context.position.search.num_documents=999")
    with pytest.raises(ConfigError, match=r"needs so many training documents of 8193 tokens .* has 0; use longer documents"):
        start("run", "context.target_length=8192", "batch_tokens=8192")
    assert not (tmp_path / "runs/bases").exists()
