"""W&B: no prompt and no hang when something is wrong with the account, the server or the network."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.tracking.offline import offline_runs
from tests.tracking.sample_run import CONFIGURATION, line, lines, track, track_steps
from tests.tracking.server import StandIn

from elongate.tracking.tracker import Untracked
from elongate.tracking.wandb import Wandb

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


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
