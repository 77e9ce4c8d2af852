"""SIGINT and SIGTERM: exit code 3, one line, and a run that can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.commands import ROOT, environment
from tests.conftest import TINY, TINY_MODEL


def test_a_signal_before_training_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.txt")
    words = ["data=text", "data.path=endless.txt"]
    for number in (signal.SIGINT, signal.SIGTERM):
        started = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            cwd=tmp_path,
            env=environment(tmp_path, False),
            stderr=subprocess.PIPE,
            text=True,
            # In a shell's background SIGINT is ignored, and its processes inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
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
    )
    assert started.stdout is not None
    # The line with which the base begins; its first checkpoint is far away.
    assert any(line.startswith("base: ") for line in started.stdout)
    started.send_signal(signal.SIGINT)
    _, error = started.communicate(timeout=60)
    assert started.returncode == 3
    assert error.startswith("error: stopped by SIGINT at step ")
    assert error.count("\n") == 1
    assert list(tmp_path.glob("runs/bases/gpt-32-*/checkpoints/step-*"))
    assert not (tmp_path / "runs" / "gpt-yarn-default").exists()
