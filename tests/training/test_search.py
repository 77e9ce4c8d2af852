"""LongRoPE's search inside a run: its documents, that it runs once, and that its result is trained and exported."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.conftest import Workshop
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from elongate.atomic import remove
from elongate.console import SearchBar
from elongate.context.position.rotary import Rotary
from elongate.context.position.yarn import Yarn
from elongate.data.tokens import load_corpus
from elongate.errors import ConfigError, Stopped
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
def search(start: Workshop, tmp_path: Path) -> Callable[..., tuple[RunDirectory, dict[str, Any]]]:
    """Runs a tiny job with a search, in a directory of that name for this test. All of them share one base."""
    return lambda name, *overrides: start(f"{tmp_path.name}-{name}", *WORDS, *overrides)


@pytest.fixture(scope="module")
def found(start: Workshop) -> tuple[RunDirectory, dict[str, Any]]:
    """A finished run with a search. Tests copy what they change."""
    return start("found", *WORDS)


def written(directory: RunDirectory) -> dict[str, Any]:
    return json.loads((directory.path / "longrope.json").read_text())


@pytest.mark.slow
def test_the_result_is_written_trained_and_exported(found: Any) -> None:
    directory, results = found
    result = written(directory)
    assert (np.diff(result["losses"]) <= 0).all()
    assert result["losses"][-1] == result["loss"] <= min(begun["loss"] for begun in result["starts"].values())
    assert (np.diff(result["long_factor"]) >= 0).all()
    assert result["num_tried"] == 6 + 3 * 4
    parameters = results["strategy"]["proof"]["rope_parameters"]
    assert (parameters["long_factor"], parameters["short_factor"]) == (result["long_factor"], [1.0] * 4)
    assert AutoConfig.from_pretrained(directory.model).rope_parameters["long_factor"] == result["long_factor"]


@pytest.mark.slow
def test_the_loss_is_that_of_plain_transformers_on_long_training_documents(found: Any, start: Workshop) -> None:
    directory, results = found
    result = written(directory)
    base = Path(results["budget"]["base"]["path"]) / "model"
    job = start.job(*WORDS)
    train = load_corpus(job.data, job.tokenizer.fit(job.data)).train
    rotary = Rotary(8, 1e4, 32)
    attention_factor = float(np.sqrt(1 + np.log(4) / np.log(32)))
    # YaRN's frequencies with LongRoPE's attention factor.
    yarn = Yarn().rope_parameters(rotary, 4.0) | {"attention_factor": attention_factor}
    best = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 4,
        "long_factor": result["long_factor"],
    }
    for parameters, loss in ((yarn, result["starts"]["yarn"]["loss"]), (best, result["loss"])):
        opened = AutoModelForCausalLM.from_pretrained(base, rope_parameters=parameters, max_position_embeddings=128)
        losses = []
        for document in result["documents"]:
            begin = train.bounds[document]
            tokens = torch.from_numpy(train.flat[begin : begin + 129].astype(np.int64))
            with torch.no_grad():
                losses.append(F.cross_entropy(opened(tokens[None, :-1]).logits[0], tokens[1:]).item())
        assert loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert result["loss"] < result["starts"]["yarn"]["loss"]


def test_held_out_documents_are_only_for_the_comparison(found: Any) -> None:
    held_out = written(found[0])["held_out"]
    assert held_out["n"] > 0
    for other in ("yarn", "yarn_factors"):
        assert held_out[other]["gain"] == pytest.approx(held_out[other]["loss"] - held_out["found"], abs=1e-12)


@pytest.mark.slow
def test_a_stopped_search_starts_again_with_the_same_result(
    found: Any, search: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = found
    step = SearchBar.step

    def interrupted(self: SearchBar, done: int, total: int, best: float) -> None:
        step(self, done, total, best)
        if done == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(SearchBar, "step", interrupted)
        with pytest.raises(Stopped, match="stopped by SIGTERM in the search"):
            search("stopped")
    stopped, _ = search("stopped")
    assert written(stopped) == written(directory)
    other, _ = search("other", "seed=1")
    assert written(other)["long_factor"] != written(directory)["long_factor"]


@pytest.mark.slow
def test_a_resumed_run_uses_the_result_of_its_search(found: Any, search: Callable[..., Any], start: Workshop, tmp_path: Path) -> None:
    directory = RunDirectory(start.folder / f"{tmp_path.name}-run")
    shutil.copytree(found[0].path, directory.path)
    file = directory.path / "longrope.json"
    file.write_text(json.dumps(written(directory) | {"long_factor": [1.0, 2.0, 3.0, 4.0]}))
    for path in (directory.results, directory.checkpoints, directory.metrics, directory.model):
        remove(path)
    _, results = search("run")
    assert results["strategy"]["proof"]["rope_parameters"]["long_factor"] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.slow
def test_the_factors_of_one_run_can_be_used_by_another(found: Any, search: Callable[..., Any]) -> None:
    directory, first = found
    defaults = ["~context.position.search"]
    second, results = search("second", f"context.position.factors={directory.path / 'longrope.json'}", *defaults)
    assert not (second.path / "longrope.json").exists()
    assert results["strategy"]["proof"]["rope_parameters"] == first["strategy"]["proof"]["rope_parameters"]


@pytest.mark.slow
def test_too_few_long_documents_are_reported_before_a_base_is_trained(search: Callable[..., Any], start: Workshop) -> None:
    before = sorted(start.folder.glob("runs/bases/*"))
    with pytest.raises(ConfigError, match=r"999: needs 999 training documents of at least 129 tokens, found (\d+); use .*=\1"):
        search("run", "context.position.search.num_documents=999", "seed=7")
    with pytest.raises(ConfigError, match=r"needs 2 training documents of at least 8193 tokens, found 0; use longer documents"):
        search("run", "context.target_length=8192", "batch_tokens=8192", "seed=7")
    assert sorted(start.folder.glob("runs/bases/*")) == before
