"""Trackers run in the background: faults end the tracking with one line, and the end of a run waits only so long."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.tracking.sample_run import line, lines, track

from elongate.tracking import tracker as tracker_module
from elongate.tracking.none import Nothing
from elongate.tracking.tensorboard import EventFile, TensorBoard
from elongate.tracking.tracker import Background, Tracking, View
from elongate.tracking.values import train_scalars
from elongate.tracking.wandb import Wandb, WandbRun

Captured = pytest.CaptureFixture[str]


class Recorder(View):
    """Remembers its calls. `start` waits until it is released."""

    name = "Recorder"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.release = threading.Event()

    def load(self) -> tuple[type[Exception], ...]:
        self.calls.append("load")
        return (OSError,)

    def start(self, history: Any) -> None:
        self.release.wait()
        self.calls.append(f"start after {len(history)} lines")

    def log(self, line: Any) -> None:
        self.calls.append(f"log {line['step']}")

    def report(self, scalars: Any, images: Any, tables: Any) -> None:
        self.calls.append("report")

    def finish(self, exit_code: int) -> None:
        self.calls.append(f"finish with {exit_code}")

    def abandon(self) -> None:
        self.calls.append("abandon")


def test_calls_reach_the_view_in_order_after_the_first_line() -> None:
    view = Recorder()
    view.release.set()
    tracker = Background(view)
    tracker.start(lines(1, 3))
    time.sleep(0.05)
    assert view.calls == []  # nothing is imported before there is something to show
    tracker.log(line(4))
    tracker.report({}, {}, {})
    tracker.finish(3)
    assert view.calls == ["load", "start after 3 lines", "log 4", "report", "finish with 3"]


def test_only_finish_waits_and_only_for_some_time(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(tracker_module, "FINISH_SECONDS", 0.5)
    view = Recorder()  # its `start` does not return before the end of this test
    tracker = Background(view)
    tracker.start([])
    tracker.log(line(1))
    tracker.report({}, {}, {})
    began = time.monotonic()
    tracker.finish(0)
    assert time.monotonic() - began >= 0.5
    assert re.fullmatch("warning: Recorder: did not finish within .+\n", capsys.readouterr().err)
    view.release.set()


def test_finishing_a_tracker_that_was_not_started_opens_nothing() -> None:
    view = Recorder()
    Background(view).finish(1)
    assert view.calls == []


@pytest.mark.slow
@pytest.mark.parametrize("choice", [Wandb(), TensorBoard()], ids=["wandb", "tensorboard"])
def test_a_fault_of_any_call_is_one_line_and_the_next_run_is_tracked(
    choice: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    view, name = (WandbRun, "W&B") if isinstance(choice, Wandb) else (EventFile, "TensorBoard")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left\non device")

    for call in ("start", "log", "report", "finish"):
        with monkeypatch.context() as broken:
            broken.setattr(view, call, fail)
            track(choice, tmp_path / call, [], lines(1, 50))
        warning = capsys.readouterr().err
        assert warning.startswith(f"warning: {name}: [Errno 28] No space left on device")
        assert warning.count("\n") == 1
    track(choice, tmp_path / "next", [], lines(1, 2))
    assert capsys.readouterr().err == ""
    assert list((tmp_path / "next").rglob("*.wandb")) or list((tmp_path / "next").rglob("events.*"))


def test_only_numbers_are_logged_and_the_step_is_not_one_of_them() -> None:
    metrics = {"step": 3, "stage": "extend", "loss": 1.5, "length": 1024, "stopped": True, "lr": None}
    assert train_scalars(metrics) == {"train/loss": 1.5, "train/length": 1024}


def test_no_tracker_leaves_no_files(tmp_path: Path) -> None:
    track(Nothing(), tmp_path / "run", lines(1, 3), lines(4, 5))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"curve.png", "curve.csv"}
    assert Nothing().describe_finished(tmp_path / "run") is None


def test_choices_are_built_without_importing_a_tracker() -> None:
    modules = ("none", "tensorboard", "wandb")
    imports = "; ".join(f"import elongate.tracking.{module}" for module in modules)
    script = f"{imports}; import sys; print({{'wandb', 'tensorboard', 'torch'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
