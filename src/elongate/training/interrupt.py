"""Turns SIGINT, SIGTERM and SIGHUP (a closed terminal) into a flag that is checked after every step.

A second signal ends the program immediately.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from elongate.process import stop_signals


class Interrupt:
    """A context manager; `requested` is the name of the signal that came, or None."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        self._before = {s: signal.signal(s, self._note) for s in stop_signals()}
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
