"""W&B: what a run contains offline, where its settings come from, and that it never asks and never blocks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.tracking.conftest import bare_machine
from tests.tracking.offline import OfflineRun, offline_runs
from tests.tracking.sample_run import CONFIGURATION, SCALARS, line, lines, track, track_steps
from tests.tracking.server import StandIn

from elongate.errors import ConfigError
from elongate.tracking.tracker import Untracked
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

ENVIRONMENT = {
    "WANDB_PROJECT": "their-project",
    "WANDB_ENTITY": "their-team",
    "WANDB_NAME": "their name",
    "WANDB_RUN_GROUP": "their-group",
    "WANDB_JOB_TYPE": "their-job",
    "WANDB_NOTES": "their notes",
    "WANDB_TAGS": "red,green",
    "WANDB_RUN_ID": "their-id",
    "WANDB_DIR": "their-folder",
}
THEIRS = OfflineRun(
    identity="their-id",
    project="their-project",
    entity="their-team",
    name="their name",
    group="their-group",
    job_type="their-job",
    notes="their notes",
    tags=["red", "green"],
)
KEYS = Wandb(
    project="our-project",
    entity="our-team",
    name="our name",
    group="our-group",
    job_type="our-job",
    notes="our notes",
    tags=["blue"],
    id="our-id",
    directory="our-folder",
)
OURS = OfflineRun(
    identity="our-id",
    project="our-project",
    entity="our-team",
    name="our name",
    group="our-group",
    job_type="our-job",
    notes="our notes",
    tags=["blue"],
)


@pytest.mark.slow
def test_the_environment_sets_what_is_null_and_a_given_key_goes_first(tmp_path: Path, monkeypatch: Patch) -> None:
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    for choice, folder, expected in ((Wandb(), "their-folder", THEIRS), (KEYS, "our-folder", OURS)):
        track(choice, tmp_path / "run", [], lines(1, 2))
        (run,) = offline_runs(tmp_path / folder)
        assert run.settings() == expected.settings()
        assert run.identity == (tmp_path / "run" / "wandb-id").read_text()
    assert not (tmp_path / "run" / "wandb").exists()
    monkeypatch.delenv("WANDB_RUN_ID")
    monkeypatch.delenv("WANDB_DIR")
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert offline_runs(tmp_path / "run")[0].identity == "our-id"  # an id that was given once stays that of the run


@pytest.mark.parametrize("group", ["", "environment", "key"])
def test_runs_of_a_sweep_are_grouped_unless_a_group_is_given(group: str, monkeypatch: Patch) -> None:
    if group == "environment":
        monkeypatch.setenv("WANDB_RUN_GROUP", "environment")
    choice = Wandb(group="key" if group == "key" else None)
    assert choice.in_sweep("sweep-lr").group == (group or "sweep-lr")


def test_runs_of_a_sweep_cannot_share_an_id(monkeypatch: Patch) -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.id=abc: cannot be the id of every run of a sweep; remove tracking\.id$"):
        Wandb(id="abc").in_sweep("sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "xyz")
    with pytest.raises(ConfigError, match=r"^WANDB_RUN_ID=xyz: cannot be the id of every run"):
        Wandb().in_sweep("sweep")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "offlin"}, "mode=offlin: must be online, offline, disabled or null; use mode=null for online if"),
        ({"resume": "yes"}, "resume=yes: must be allow, must, never, auto or null; use resume=allow"),
        ({"project": "a/b"}, "project=a/b: must have 1 to 128 characters, without spaces at its ends and without / "),
        ({"project": ""}, "project: must have 1 to 128 characters"),
        ({"project": "p" * 129}, f"project={'p' * 129}: must have 1 to 128 characters"),
        ({"id": "a:b"}, "id=a:b: must have 1 to 128 characters, without spaces at its ends and without : ; "),
        ({"id": " a"}, "id= a: must have 1 to 128 characters"),
        ({"tags": ["a", ""]}, "tags=[a,]: must have 1 to 64 characters each; use tags=[first,second]"),
    ],
)
def test_settings_that_wandb_does_not_accept_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        Wandb(**settings)


SCRIPT = """
import sys, time
from pathlib import Path
from elongate.tracking.wandb import Wandb
tracker = Wandb(**eval(sys.argv[2])).tracker(Path(sys.argv[1]), {})
tracker.start([])
tracker.log({"step": 1, "loss": 1.0})
while not hasattr(tracker._view, "_run"): time.sleep(0.01)
time.sleep(1)  # ten system metrics
print("a line of the terminal")
tracker.finish(0)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a script in it that tracks a run."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "script.py").write_text(SCRIPT)
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "environment", "recorded"),
    [
        ({}, {}, set()),
        (dict.fromkeys(("console", "code", "git", "system_metrics"), True), {}, {"console", "code", "git", "system_metrics"}),
        (
            {},
            {"WANDB_CONSOLE": "wrap", "WANDB_SAVE_CODE": "true", "WANDB_DISABLE_GIT": "false", "WANDB_X_DISABLE_STATS": "false"},
            {"console", "code", "git", "system_metrics"},
        ),
    ],
    ids=["default", "keys", "environment"],
)
def test_console_code_git_and_system_metrics_are_recorded_only_if_chosen(
    settings: dict[str, bool], environment: dict[str, str], recorded: set[str], repository: Path, tmp_path: Path
) -> None:
    variables = {**os.environ, **environment, "WANDB_X_STATS_SAMPLING_INTERVAL": "0.1"}
    command = [sys.executable, "script.py", str(tmp_path), repr(settings)]
    subprocess.run(command, cwd=repository, env=variables, check=True, capture_output=True, timeout=300)
    (run,) = offline_runs(tmp_path)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True).stdout.strip()
    found = {
        "console": "a line of the terminal" in run.console,
        "code": any(path.name == "script.py" for path in tmp_path.glob("wandb/*/files/code/**/*")),
        "git": run.commit == commit,
        "system_metrics": run.num_system_metrics > 0,
    }
    assert {name for name, is_recorded in found.items() if is_recorded} == recorded


# -- modes ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "online", "offline", "dryrun"])
def test_without_an_account_runs_are_offline_and_nobody_is_asked(
    mode: str | None, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    import wandb

    def ask(*_: Any, **__: Any) -> None:
        pytest.fail("asked for an account")

    monkeypatch.setattr(wandb.errors.term, "can_use_terminput", lambda: True)
    monkeypatch.setattr(wandb.util, "prompt_choices", ask)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert ("no account" in capsys.readouterr().out) == (mode in (None, "online"))
    (run,) = offline_runs(tmp_path / "run")
    assert list(run.train("loss")) == [1, 2]


@pytest.mark.parametrize("by", ["key", "environment"])
def test_disabled_leaves_nothing_and_says_nothing(by: str, tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    if by == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    choice = Wandb(mode="disabled" if by == "key" else None)
    assert isinstance(choice.tracker(tmp_path, CONFIGURATION), Untracked)
    track(choice, tmp_path / "run", [], lines(1, 2))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"curve.png", "curve.csv"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_disabled_in_the_settings_file_of_wandb_leaves_nothing(tmp_path: Path, capsys: Captured) -> None:
    """`wandb disabled` writes this file."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = disabled\n")
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"curve.png", "curve.csv"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_given_mode_goes_before_the_environment(server: type[StandIn], tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    track(Wandb(mode="offline"), tmp_path / "run", [], lines(1, 2))
    assert offline_runs(tmp_path / "run")
    assert not server.steps


# -- account and server ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("variable", ["WANDB_BASE_URL", "HTTPS_PROXY"])
def test_an_account_whose_server_or_proxy_is_out_of_reach_is_offline(
    variable: str, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")  # the discard port, which is closed on today's machines
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert "127.0.0.1:9: " in capsys.readouterr().out  # our own words: W&B is not asked, it would retry for minutes
    assert len(offline_runs(tmp_path / "run")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("refused", ["by the server", "by its form"])
def test_a_refused_account_is_offline(refused: str, server: type[StandIn], tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    server.refuses = True
    if refused == "by its form":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    for number in range(2):
        track(Wandb(), tmp_path / f"run-{number}", [], lines(1, 2))
    runs = [run for number in range(2) for run in offline_runs(tmp_path / f"run-{number}")]
    assert [list(run.train("loss")) for run in runs] == [[1, 2], [1, 2]]
    out, err = capsys.readouterr()
    reason = "401" if refused == "by the server" else "WANDB_API_KEY"
    assert out.count("\n") == 2
    assert out.count(reason) == 2
    assert err == ""


@pytest.mark.slow
def test_online_only_the_steps_that_the_server_lacks_are_sent(server: type[StandIn], tmp_path: Path, capsys: Captured) -> None:
    for server.last_step, expected in ((0, list(range(1, 9))), (5, [6, 7, 8])):
        server.steps.clear()
        track_steps(Wandb(), tmp_path / "run", lines(1, 6), lines(7, 8))
        assert server.steps == expected
    identity = (tmp_path / "run" / "wandb-id").read_text()
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"(W&B: http\S+/{identity}\n){{2}}", out)
    assert err == ""


@pytest.mark.slow
def test_resume_decides_what_happens_to_a_run_that_the_server_has(
    server: type[StandIn], tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    """A run that `resume` forbids is written offline instead. The environment decides where the key is null."""
    cases = [("must", 0, False), ("must", 5, True), ("never", 0, True), ("never", 5, False), (None, 5, False), ("allow", 5, True)]
    monkeypatch.setenv("WANDB_RESUME", "never")
    for number, (resume, server.last_step, is_allowed) in enumerate(cases):
        track_steps(Wandb(resume=resume), tmp_path / f"run-{number}", [], lines(6, 8))
        out, err = capsys.readouterr()
        assert out.startswith("W&B: http" if is_allowed else "W&B is offline ("), (resume, server.last_step, out)
        assert ("resume" in out.lower()) != is_allowed
        assert err == ""


# -- faults --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_outlives_the_process_of_wandb(tmp_path: Path, capsys: Captured) -> None:
    import wandb

    (tmp_path / "run").mkdir()
    tracker = Wandb().tracker(tmp_path / "run", CONFIGURATION)
    tracker.start([line(1)])
    tracker.log(line(2))
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("run/wandb/*/*.wandb")) and time.monotonic() < deadline:
        time.sleep(0.05)
    service = wandb.setup().ensure_service()._proc._process
    service.kill()
    service.wait()
    for new in lines(3, 2000):
        tracker.log(new)
    tracker.finish(0)
    assert capsys.readouterr().err.count("\n") == 1
    track(Wandb(), tmp_path / "next", [], lines(1, 2))
    assert len(offline_runs(tmp_path / "next")) == 1


@pytest.mark.slow
def test_a_directory_that_cannot_be_made_is_one_warning(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    track(Wandb(directory=str(tmp_path / "file" / "folder")), tmp_path / "run", [], lines(1, 2))
    assert re.fullmatch(r"warning: W&B: .*Not a directory.*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_a_program_that_never_finishes_its_run_still_ends(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; from pathlib import Path; from elongate.tracking.wandb import Wandb\n"
        "before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "tracker = Wandb().tracker(Path(sys.argv[1]), {})\n"
        "tracker.start([])\n"
        "[tracker.log({'step': n, 'loss': 1.0}) for n in range(1000)]\n"
        "while not list(Path(sys.argv[1]).glob('wandb/*/*.wandb')): time.sleep(0.01)\n"
        "assert before == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "sys.exit(3)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 3
    assert ended.stderr == ""
