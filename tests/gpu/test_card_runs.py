"""Whole runs on the card: a stopped run resumes bit for bit, and the smoke run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.commands import run_here
from tests.conftest import TINY_EVALUATION
from tests.interrupts import SignalAfter
from tests.training.program import outcome

from elongate.errors import Stopped
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

pytestmark = pytest.mark.gpu

SHORT = ["steps=4", "training.checkpoint_steps=2", "context.curriculum.base.steps=4", "evaluation=[curve]"]
SHORT += [
    "evaluation.curve.num_sequences=2",
    "evaluation.curve.length=128",
    "context.target_length=512",
    "batch_tokens=1024",
    "device=cuda",
]


SETTINGS = [("precision=fp32", "memory=plain"), ("precision=bf16", "memory=stream", "memory.chunk_length=128"), ("precision=bf16_pure",)]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_stopped_run_resumes_to_the_same_bits(
    settings: tuple[str, ...], build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "precision=bf16_pure" in settings:
        pytest.importorskip("torchao", reason="torchao is not installed: pip install 'elongate[pure]'")
    job = build_tiny("data=text", f"data.path={text_folder}", *SHORT, *settings)

    def started(cwd: Path) -> RunDirectory:
        directory = RunDirectory(cwd / "runs/run")
        directory.path.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(cwd)
        with directory.locked():
            run(job, directory)
        return directory

    expected = outcome(started(tmp_path / "undisturbed").path)
    with monkeypatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(6))
        with pytest.raises(Stopped):
            started(tmp_path / "stopped")
    assert outcome(started(tmp_path / "stopped").path) == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_pure"])
def test_the_smoke_run(precision: str, tmp_path: Path) -> None:
    if precision == "bf16_pure":
        pytest.importorskip("torchao", reason="torchao is not installed: pip install 'elongate[pure]'")
    done = run_here("train", "experiment=smoke", "device=cuda", f"precision={precision}", *TINY_EVALUATION, cwd=tmp_path)
    assert done.code == 0, done.err
    folder = tmp_path / "runs/gpt-yarn-smoke"
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 12
    assert all(map(math.isfinite, losses))
    results = json.loads((folder / "results.json").read_text())
    assert {"curve", "needle"} <= results.keys()
    assert results["provenance"]["device"].startswith("cuda")
    assert (folder / "report.html").stat().st_size > 10_000
