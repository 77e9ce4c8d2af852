"""Signals at a chosen moment."""

from __future__ import annotations

from typing import Any


class SignalAfter:
    """An `Interrupt` whose signal comes after so many looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __enter__(self) -> SignalAfter:
        return self

    def __exit__(self, *fault: Any) -> None:
        pass

    @property
    def requested(self) -> str | None:
        self.looks -= 1
        return "SIGTERM" if self.looks < 0 else None
