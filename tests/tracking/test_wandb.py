"""W&B without an account: what a run contains."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.tracking.conftest import bare_machine
from tests.tracking.offline import OfflineRun, offline_runs
from tests.tracking.sample_run import CONFIGURATION, SCALARS, lines, track

from elongate.tracking.wandb import Wandb

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


class Session(NamedTuple):
    """Runs of one process without an account."""

    folder: Path
    runs: dict[str, list[OfflineRun]]  # of each start, by run directory
    out: str
    err: str


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A run of 400 steps, another one, and a second start of that one."""
    folder = tmp_path_factory.mktemp("session")
    out, err = io.StringIO(), io.StringIO()
    with bare_machine(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        track(Wandb(), folder / "a run", lines(1, 3), lines(4, 400))
        track(Wandb(), folder / "other", [], lines(1, 5))
        track(Wandb(), folder / "other", lines(1, 4), lines(5, 8))
        runs = {name: offline_runs(folder / name) for name in ("a run", "other")}
    return Session(folder, runs, out.getvalue(), err.getvalue())


@pytest.mark.slow
def test_an_offline_run_contains_configuration_steps_summary_table_and_image(session: Session) -> None:
    (run,) = session.runs["a run"]
    assert CONFIGURATION.items() <= run.configuration.items()
    assert run.train("loss") == {step: 4.0 / step for step in range(1, 401)}
    assert run.train("length") == dict.fromkeys(range(1, 401), 1024)
    assert run.train("stage") == run.train("step") == {}
    assert run.summary.items() >= SCALARS.items()
    assert run.exit_code == 0
    (files,) = (session.folder / "a run").glob("wandb/offline-run-*/files")
    image = run.logged("images/curve")
    assert (image["width"], image["height"]) == (150, 100)
    assert (files / image["path"]).read_bytes() == (session.folder / "a run" / "curve.png").read_bytes()
    shown = json.loads((files / run.logged("tables/curve")["path"]).read_text())
    assert shown["columns"] == ["row", "start", "loss"]
    assert shown["data"] == [["before", 0, 1.8], ["before", 256, None]]


@pytest.mark.slow
def test_a_run_without_settings_has_the_name_of_its_directory_and_the_default_project(session: Session) -> None:
    (run,) = session.runs["a run"]
    assert (run.project, run.name) == ("elongate", "a run")
    assert (run.entity, run.group, run.job_type, run.notes, run.tags) == ("", "", "", "", [])


@pytest.mark.slow
def test_a_second_start_has_the_same_id_and_every_step_from_the_first(session: Session) -> None:
    first, second = session.runs["other"]
    assert first.identity == second.identity == (session.folder / "other" / "wandb-id").read_text()
    assert first.identity != session.runs["a run"][0].identity
    assert first.train("loss") == {step: 4.0 / step for step in range(1, 6)}
    assert second.train("loss") == {step: 4.0 / step for step in range(1, 9)}


@pytest.mark.slow
def test_one_line_per_start_names_the_command_that_uploads_it(session: Session) -> None:
    assert session.err == ""
    commands = [shlex.split(shown.partition("upload this run: ")[2]) for shown in session.out.splitlines()]
    assert [command[:2] for command in commands] == [["wandb", "sync"]] * 3
    assert all(len(command) == 3 and list((session.folder / command[2]).glob("*.wandb")) for command in commands)


@pytest.mark.slow
def test_a_finished_run_names_the_command_that_uploads_its_last_start(session: Session, monkeypatch: Patch) -> None:
    monkeypatch.chdir(session.folder)
    for directory in ("a run", "other"):
        note = str(Wandb().describe_finished(session.folder / directory))
        assert note.startswith("W&B: the run is finished and is not logged again; to upload it: wandb sync ")
        (folder,) = shlex.split(note.partition("wandb sync ")[2])
        newest = max((session.folder / directory / "wandb").glob("offline-run-*"), key=lambda path: path.name)
        assert Path(folder).resolve() == newest.resolve()
    assert "never logged; overwrite=true" in str(Wandb().describe_finished(session.folder))


def test_a_finished_run_that_is_uploaded_or_was_online_says_so(tmp_path: Path) -> None:
    (tmp_path / "wandb-id").write_text("abc")
    folder = tmp_path / "wandb" / "offline-run-20260102_000000-abc"
    folder.mkdir(parents=True)
    (folder / "run-abc.wandb.synced").touch()
    assert str(Wandb().describe_finished(tmp_path)).endswith("; it was uploaded by wandb sync")
    (tmp_path / "wandb" / "run-20260103_000000-abc").mkdir()
    (tmp_path / "wandb" / "run-20260104_000000-other").mkdir()
    command = "wandb sync wandb/run-20260103_000000-abc"
    assert str(Wandb().describe_finished(tmp_path)).endswith(f"; if its upload was cut off: {command}")
    assert Wandb(mode="disabled").describe_finished(tmp_path) is None


# -- settings --------------------------------------------------------------------------------------------------------------
