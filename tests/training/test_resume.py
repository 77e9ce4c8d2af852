"""A run that dies or is stopped at any moment is resumed by the same command, to the same weights and figures."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.interrupts import SignalAfter
from tests.training.program import outcome

from elongate.errors import ConfigError, Stopped
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

Build = Callable[..., Any]
SHORT = ["steps=3", "training.checkpoint_steps=1", "context.curriculum.base.steps=3", "evaluation=[curve]"]
SHORT += ["evaluation.curve.num_sequences=2", "evaluation.curve.length=128"]
WITHOUT_BASE = ["context/curriculum=fixed", "evaluation=[]", "steps=9"]


class Death(BaseException):
    """Simulates the end of the process: no cleanup code catches it."""


@pytest.fixture
def die_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Sets how many syncs, renames and removals succeed before death. After that all of them raise."""
    left: list[int | None] = [None]

    def mortal(act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise Death
            return act(*arguments, **options)

        return wrapped

    for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))

    def set_left(acts: int | None) -> None:
        left[0] = acts

    yield set_left
    gc.collect()  # close files that were left open


@pytest.fixture
def build(build_tiny: Build, text_folder: Path, empty_figures: None) -> Build:
    """Builds a job on a few documents."""
    return lambda *overrides: build_tiny("data=text", f"data.path={text_folder}", *overrides)


def start(job: Any, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    directory = RunDirectory(cwd / "runs/run")
    directory.path.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(cwd)
    with directory.locked():
        run(job, directory)
    return directory


def stop(job: Any, cwd: Path, looks: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The error of a run that receives a signal after it has checked for one `looks` times."""
    with monkeypatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(looks))
        with pytest.raises(Stopped) as stopped:
            start(job, cwd, patched)
    return str(stopped.value)


def steps_of(directory: RunDirectory) -> list[int]:
    return [line["step"] for line in directory.read_metrics()]


def checkpoints_of(cwd: Path) -> list[str]:
    return sorted(path.name for path in cwd.glob("runs/run/checkpoints/*"))


# -- death -----------------------------------------------------------------------------------------------------------------

DEAD = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # dead runs leave files open


@DEAD
@pytest.mark.slow
@pytest.mark.parametrize("tuning", [pytest.param("full", marks=pytest.mark.grid), "lora_plus"])
def test_death_between_any_two_file_operations_changes_no_result(
    tuning: str, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_after: Callable[[int | None], None]
) -> None:
    job = build(*SHORT, f"tuning={tuning}")
    expected = outcome(start(job, tmp_path / "undisturbed", monkeypatch).path)
    random, deaths = Random(0), 0
    while True:
        die_after(random.randrange(30))
        try:
            directory = start(job, tmp_path / "mortal", monkeypatch)
            break
        except Death:
            deaths += 1
            assert deaths < 100, "it makes no progress"
        finally:
            die_after(None)
    assert deaths > 2
    assert outcome(directory.path) == expected


@DEAD
@pytest.mark.slow
def test_death_while_a_run_is_overwritten_leaves_none_of_its_files(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_after: Callable[[int | None], None]
) -> None:
    short = [word for word in SHORT if "base" not in word] + ["context/curriculum=fixed"]
    start(build(*short), tmp_path / "overwritten", monkeypatch)
    job = build(*short, "overwrite=true", "optimizer.lr=0.01")
    expected = outcome(start(job, tmp_path / "undisturbed", monkeypatch).path)
    for acts in (0, 2, 5):
        shutil.copytree(tmp_path / "overwritten", tmp_path / f"mortal-{acts}")
        die_after(acts)
        with pytest.raises(Death):
            start(job, tmp_path / f"mortal-{acts}", monkeypatch)
        die_after(None)
        assert outcome(start(job, tmp_path / f"mortal-{acts}", monkeypatch).path) == expected


# -- signals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_stopped_in_base_extension_and_evaluation_has_the_same_result(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, cwd = build(*SHORT), tmp_path / "stopped"
    expected = outcome(start(job, tmp_path / "undisturbed", monkeypatch).path)
    stops = [stop(job, cwd, looks, monkeypatch) for looks in (1, 2, 0)]
    assert [re.findall(r"at step \d+|in the evaluation", text) for text in stops] == [["at step 2"], ["at step 5"], ["at step 6"]]
    # The last step is done, and one of two rows of the evaluation.
    assert "in the evaluation" in stop(job, cwd, 0, monkeypatch)
    assert outcome(start(job, cwd, monkeypatch).path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("looks", [0, 3])
def test_the_last_step_of_a_stopped_run_is_in_a_checkpoint(
    looks: int, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = stop(build(*WITHOUT_BASE), tmp_path, looks, monkeypatch)
    assert error == f"stopped by SIGTERM at step {looks + 1}; run the same command to resume"
    assert checkpoints_of(tmp_path) == [f"step-{looks + 1:06d}"]


@pytest.mark.slow
def test_damaged_checkpoints_do_not_count_towards_those_that_are_kept(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build(*WITHOUT_BASE, "training.checkpoint_steps=2")
    for looks in (5, 0):
        error = stop(job, tmp_path, looks, monkeypatch)
        for path in tmp_path.glob("runs/run/checkpoints/*/manifest.json"):
            path.write_text("")
    (step,) = re.findall(r"at step (\d+)", error)
    assert f"step-{int(step):06d}" in checkpoints_of(tmp_path)


@pytest.mark.slow
def test_a_signal_while_another_process_trains_the_base_ends_the_wait(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build(*SHORT[:3], "evaluation=[]")
    start(job, tmp_path, monkeypatch)
    (path,) = tmp_path.glob("runs/bases/*-*")
    shutil.rmtree(path / "model")
    shutil.rmtree(tmp_path / "runs/run")
    monkeypatch.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(0))
    with RunDirectory(path).locked():
        unending = threading.Timer(20, os.kill, (os.getpid(), signal.SIGINT))
        unending.start()
        try:
            with pytest.raises((Stopped, KeyboardInterrupt), match="SIGTERM"):
                start(job, tmp_path, monkeypatch)
        finally:
            unending.cancel()
            unending.join()


# -- a chosen checkpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_chosen_checkpoint_is_resumed(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*WITHOUT_BASE, "training.checkpoint_steps=2", "training.keep_checkpoints=9"]
    expected = start(build(*words), tmp_path / "undisturbed", monkeypatch)
    stop(build(*words), tmp_path, 6, monkeypatch)
    assert checkpoints_of(tmp_path) == ["step-000002", "step-000004", "step-000006", "step-000007"]
    # The chosen checkpoint is used although there are newer ones, and the later steps are trained again.
    error = stop(build(*words, "training.resume_from=step-000004"), tmp_path, 0, monkeypatch)
    assert "at step 5" in error
    assert "resuming from step-000004" in capfd.readouterr().out
    assert steps_of(RunDirectory(tmp_path / "runs/run")) == [1, 2, 3, 4, 5]
    directory = start(build(*words, "training.resume_from=step-000002"), tmp_path, monkeypatch)
    assert steps_of(directory) == list(range(1, 10))
    assert (directory.model / "model.safetensors").read_bytes() == (expected.model / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_chosen_checkpoint_that_cannot_be_resumed_is_refused(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [*WITHOUT_BASE, "training.checkpoint_steps=2", "training.resume_from=step-000002"]
    with pytest.raises(ConfigError, match=r"resume_from=step-000002: is not a checkpoint in .*checkpoints; use .*=null"):
        start(build(*chosen), tmp_path, monkeypatch)
    stop(build(*chosen[:-1]), tmp_path, 3, monkeypatch)
    (tmp_path / "runs/run/checkpoints/step-000002/progress.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"resume_from=step-000002: is damaged \(progress.json .*use .*=null for the newest undamaged"):
        start(build(*chosen), tmp_path, monkeypatch)
    start(build(*chosen[:-1]), tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=r"resume_from=step-000002: the run .* is finished; .*overwrite=true to start over"):
        start(build(*chosen), tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=r"resume_from=400: must be the name of a checkpoint, such as step-000400"):
        build(*WITHOUT_BASE, "training.resume_from=400")
