"""The interface of all trackers, and the thread that runs them.

Every start shows the run from its first step. Importing a library and opening a run takes seconds, so a background
thread makes all calls, in order. A fault is reported in one line and ends the tracking, never the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, main_thread
from typing import ClassVar

from elongate.console import warn
from elongate.tracking.values import Values

FINISH_SECONDS = 45.0  # the longest time that the end of a run waits for its tracker


class Tracker(ABC):
    """Shows one run. Call `start` once before `log` and `report`, and `finish` however the run ends."""

    @abstractmethod
    def start(self, history: Sequence[Values]) -> None:
        """Opens the view and shows `history`, the lines that `metrics.jsonl` already contains."""

    @abstractmethod
    def log(self, line: Values) -> None:
        """Shows the numbers of a new line of `metrics.jsonl` as train/<key> over its step."""

    @abstractmethod
    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        """Shows the end of a run: single values of `results.json` by path, PNG images and CSV tables by name."""

    @abstractmethod
    def finish(self, exit_code: int) -> None:
        """Closes the view. Does nothing if the tracker was not started."""


class Untracked(Tracker):
    """Shows nothing."""

    def start(self, history: Sequence[Values]) -> None:
        pass

    def log(self, line: Values) -> None:
        pass

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass


class View(Tracker):
    """A service that shows a run. A single thread makes all calls, `load` first."""

    name: ClassVar[str]

    @abstractmethod
    def load(self) -> tuple[type[Exception], ...]:
        """Imports the library. Returns the exceptions that mean that the service failed, not this program."""

    @abstractmethod
    def abandon(self) -> None:
        """Closes the service after a fault, so that it cannot affect later runs or the end of the program."""


class Background(Tracker):
    """Passes every call to a view on a background thread, in order. Only `finish` waits, with a timeout."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self, history: Sequence[Values]) -> None:
        # A daemon thread: a server that blocks a call must not keep the program from ending.
        self._thread = Thread(target=self._make_calls, args=(history,), name=self._view.name, daemon=True)
        self._thread.start()

    def log(self, line: Values) -> None:
        self._calls.put(partial(self._view.log, line))

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        self._calls.put(partial(self._view.report, scalars, images, tables))

    def finish(self, exit_code: int) -> None:
        if self._thread is None:
            return
        self._calls.put(partial(self._view.finish, exit_code))
        self._calls.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn(f"did not finish within {FINISH_SECONDS:.0f} s and is abandoned")

    def _make_calls(self, history: Sequence[Values]) -> None:
        faults: tuple[type[Exception], ...] = (ImportError, OSError)
        try:
            # Wait for the first line: the first step of a run should not compete with an import.
            first = self._calls.get()
            faults = self._view.load()
            self._view.start(history)
            for call in chain([first] if first else [], iter(self._calls.get, None)):
                call()
        except faults as fault:
            if not main_thread().is_alive():
                return  # The program is ending, and the library has closed the service.
            self._warn(f"{one_line(fault)}; tracking of this run ends here, metrics.jsonl is still written")
            with suppress(*faults):
                self._view.abandon()
            for _ in iter(self._calls.get, None):
                pass

    def _warn(self, text: str) -> None:
        warn(f"{self._view.name}: {text}")


class Tracking(ABC):
    """What `tracking=` chooses."""

    @abstractmethod
    def tracker(self, directory: Path, configuration: Values) -> Tracker:
        """The tracker of the run in `directory`. It opens nothing before its `start`."""

    def in_sweep(self, sweep: str) -> Tracking:
        """The choice for a run of the sweep of this name. Raises `ConfigError` for settings that runs cannot share."""
        return self

    def describe_finished(self, directory: Path) -> str | None:
        """One line for a run that was finished before and is not tracked again, or None if there is nothing to say."""
        return None


def one_line(fault: Exception) -> str:
    """The message of a fault without line breaks, or the name of its class if it has none."""
    return " ".join(str(fault).split()).rstrip(".") or type(fault).__name__
