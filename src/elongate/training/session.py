"""What a run shares with the world around it: its directory, its tracker and the signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from elongate.errors import Stopped
from elongate.tracking import Tracker
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job
from elongate.training.run_directory import Lines, RunDirectory


class StepTracker(Protocol):
    """Where the training loop sends the lines of `metrics.jsonl`."""

    def start(self, history: Lines) -> None:
        """Called once, with the lines that exist before the first step."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Called with each new line."""


class NoTracker:
    """Tracks nothing; used for the base, which belongs to several runs."""

    def start(self, history: Lines) -> None:
        pass

    def log(self, line: Mapping[str, Any]) -> None:
        pass


class RunTracker:
    """The job's tracker. A context manager: the tracker starts with the training and is finished when the block ends."""

    def __init__(self, job: Job, directory: RunDirectory) -> None:
        self._job, self._directory = job, directory
        self._tracker: Tracker | None = None

    def start(self, history: Lines) -> None:
        path = self._directory.path
        self._tracker = self._job.tracking.start(path, path.name, dict(self._job.config), history)

    def log(self, line: Mapping[str, Any]) -> None:
        assert self._tracker is not None, "started by the training loop"
        self._tracker.log(line)

    def report(self, scalars: Mapping[str, Any], images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        """Sends the results of the run."""
        assert self._tracker is not None, "started by the training loop"
        self._tracker.report(scalars, images, tables)

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if self._tracker is not None:
            self._tracker.finish(0 if fault is None else Stopped.exit_code if isinstance(fault, Stopped) else 1)


@dataclass(frozen=True)
class Session:
    """Passed to everything that reads or writes the run directory, logs, or can be stopped."""

    directory: RunDirectory
    tracker: StepTracker
    interrupt: Interrupt

    def stop_if_requested(self, where: str) -> None:
        """Raises `Stopped` if a signal came."""
        if name := self.interrupt.requested:
            raise Stopped(f"stopped by {name} {where}; run the same command to resume")
