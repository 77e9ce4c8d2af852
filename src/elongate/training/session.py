"""What a run shares with the world around it: its directory, its tracker and the signals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from elongate.errors import Stopped
from elongate.tracking.tracker import Tracker
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job
from elongate.training.run_directory import RunDirectory


@contextmanager
def tracked(job: Job, directory: RunDirectory) -> Iterator[Tracker]:
    """Yields the job's tracker, which the training loop starts, and finishes it however the block ends."""
    tracker = job.tracking.tracker(directory.path, dict(job.config))
    code = 1
    try:
        yield tracker
        code = 0
    except Stopped:
        code = Stopped.exit_code
        raise
    finally:
        tracker.finish(code)


@dataclass(frozen=True)
class Session:
    """Passed to everything that reads or writes the run directory, logs, or can be stopped."""

    directory: RunDirectory
    tracker: Tracker
    interrupt: Interrupt

    def stop_if_requested(self, where: str) -> None:
        """Raises `Stopped` if a signal came."""
        if name := self.interrupt.requested:
            raise Stopped(f"stopped by {name} {where}; run the same command to resume")
