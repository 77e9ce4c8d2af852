"""Fixtures of the tests of evaluations: a model, and one tiny run that is copied for every test."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tests.conftest import TINY, TINY_MODEL, composed

EVALUATIONS = [
    "evaluation=[curve,needle,perplexity,context_gain,retrieval,gate]",
    "evaluation.curve.num_sequences=4",
    "evaluation.needle.num_samples=2",
    "evaluation.needle.depths=[0,1]",
    "evaluation.perplexity.num_sequences=4",
    "evaluation.context_gain.num_sequences=4",
    "evaluation.retrieval.tasks=[passkey,copy]",
    "evaluation.retrieval.lengths=[64,128]",
    "evaluation.retrieval.depths=[0,1]",
    "evaluation.retrieval.num_samples=1",
]


class Run(NamedTuple):
    """A finished run: its folder, its results, and the terminal table."""

    path: Path
    results: dict[str, Any]
    table: str


def trained(folder: Path, *words: str) -> Run:
    """A tiny run in `folder/run`, on a base of three steps."""
    from elongate.build import build_job
    from elongate.report.table import terminal_table
    from elongate.training.run import run
    from elongate.training.run_directory import RunDirectory

    text = folder / "text"
    text.mkdir()
    for i in range(12):
        (text / f"{i:02d}.txt").write_text("".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(120)))
    data = ["data=text", f"data.path={text}", f"data.cache={folder}/cache"]
    job = build_job(*composed(*TINY, *TINY_MODEL, *data, "context.curriculum.base.steps=3", *words))
    directory = RunDirectory(folder / "run")
    directory.path.mkdir()
    with contextlib.chdir(folder):
        results = run(job, directory)
    return Run(directory.path, results, terminal_table(results, job.evaluations))


@pytest.fixture(scope="session")
def session_model() -> Any:
    from elongate.config import build

    built = build(composed(*TINY, *TINY_MODEL)[0].model, "model").build(257, seed=0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))  # a fresh network hardly attends
    built.network.double().eval()
    return built


@pytest.fixture
def model(session_model: Any) -> Any:
    """A GPT of two layers in float64, with random weights."""
    return copy.deepcopy(session_model)


@pytest.fixture(scope="session")
def session_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained, measured and drawn once. Not to be changed: see `finished`."""
    return trained(tmp_path_factory.mktemp("evaluation"), *EVALUATIONS)


@pytest.fixture
def finished(session_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run that the test may change."""
    monkeypatch.chdir(tmp_path)
    path = shutil.copytree(session_run.path, tmp_path / "finished")
    return Run(path, json.loads((path / "results.json").read_text()), session_run.table)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations of a checkpoint write no page: drawing takes longer than measuring."""
    monkeypatch.setattr("elongate.evaluate.write_report", lambda *given: None)
