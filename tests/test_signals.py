"""SIGINT, SIGTERM and SIGHUP: exit code 3, one line, and a run that can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from elongate.process import stop_signals
from tests.commands import ROOT, environment
from tests.conftest import TINY, TINY_MODEL


@pytest.mark.slow
def test_a_signal_before_training_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.txt")
    words = ["data=text", "data.path=endless.txt"]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        started = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            cwd=tmp_path,
            env=environment(tmp_path, False),
            stderr=subprocess.PIPE,
            text=True,
            # In a shell's background SIGINT is ignored, and its processes inherit that.
            preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
        )
        for _ in range(200):
            if (tmp_path / "runs" / "gpt-yarn-default" / ".lock").exists():
                break
            time.sleep(0.05)
        time.sleep(0.3)
        started.send_signal(number)
        _, error = started.communicate(timeout=20)
        assert started.returncode == 3
        assert error == f"error: stopped by {number.name}; run the same command to resume\n"
        assert not (tmp_path / "runs").exists()


def test_a_program_started_with_nohup_outlives_its_terminal() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda number: signal.SIG_IGN if number is signal.SIGHUP else signal.SIG_DFL)
        assert stop_signals() == [signal.SIGINT, signal.SIGTERM]
    assert signal.SIGTERM in stop_signals()


@pytest.mark.slow
def test_a_signal_in_training_stops_after_a_checkpoint(text_folder: Path, tmp_path: Path) -> None:
    words = [*TINY, *TINY_MODEL, "context.curriculum.base.steps=100000", "data=text", f"data.path={text_folder}"]
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=tmp_path,
        env=environment(tmp_path, True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
    )
    assert started.stdout is not None
    # The line with which the base begins; its first checkpoint is far away.
    assert any(line.startswith("base: ") for line in started.stdout)
    started.send_signal(signal.SIGHUP)
    _, error = started.communicate(timeout=60)
    assert started.returncode == 3
    assert error.startswith("error: stopped by SIGHUP at step ")
    assert error.count("\n") == 1
    assert list(tmp_path.glob("runs/bases/gpt-32-*/checkpoints/step-*"))
    assert not (tmp_path / "runs" / "gpt-yarn-default").exists()
