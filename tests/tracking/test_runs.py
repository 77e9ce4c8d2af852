"""What the training program does with a tracker: the group of a sweep, and the line about a run that is finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.commands import run_here

from elongate.tracking.wandb import Wandb
from elongate.training import plan, run
from elongate.training.job import Job
from elongate.training.run_directory import RunDirectory


def groups_of(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The W&B group of every job of a command."""
    groups = []

    def record(job: Job) -> str:
        assert isinstance(job.tracking, Wandb)
        groups.append(job.tracking.group)
        return ""

    monkeypatch.setattr(plan, "plan", record)
    ended = run_here("train", *arguments, "plan=true", cwd=folder)
    assert ended.code == 0, ended.err
    return groups


@pytest.mark.slow
def test_the_runs_of_a_sweep_are_a_group_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert groups_of(["name=first"], tmp_path, monkeypatch) == [None]
    assert groups_of(["-m", "seed=0,1", "name=first"], tmp_path, monkeypatch) == ["sweep-first"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracking", "line"),
    [
        ("wandb", "W&B: the run is finished and was never logged; overwrite=true trains and logs it from the start"),
        ("tensorboard", "TensorBoard: the run is finished and was never logged; overwrite=true trains and logs it from the start"),
        ("none", None),
    ],
    ids=["wandb", "tensorboard", "none"],
)
def test_a_finished_run_says_why_it_is_not_tracked(
    tracking: str, line: str | None, build_tiny: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    job = build_tiny(f"tracking={tracking}", "evaluation=[]")
    directory.claim(job.config, overwrite=False)
    directory.write_results({"finished": True})
    directory.model.mkdir()
    (directory.path / "report.html").touch()
    run.run(job, directory)
    assert capsys.readouterr().out.splitlines()[1:] == ([line] if line else [])
