"""Positions whose parameters are searched for on the model before the extension is trained (LongRoPE)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from elongate.context.position.position import Position
from elongate.context.position.rotary import Rotary


@runtime_checkable
class Bench(Protocol):
    """Measures candidate positions on the model before the extension, on texts as long as the target."""

    rotary: Rotary
    factor: float
    seed: int

    def losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        """Mean loss of each training document, in nats."""

    def held_out_losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        """Mean loss of each held-out document; empty if none is long enough."""

    def report_progress(self, done: int, total: int, best: float) -> None:
        """Reports how many candidates of `total` have been tried, and the lowest loss so far."""


@runtime_checkable
class Searchable(Protocol):
    """A position that can search for its own parameters."""

    word: ClassVar[str]

    def num_documents(self, factor: float) -> int:
        """Training documents of the target length that the search needs; 0: nothing is to be searched for."""

    def run_search(self, bench: Bench) -> dict[str, Any]:
        """Runs the search on the model and returns a JSON-serialisable result."""

    def with_search_result(self, file: Path) -> Position:
        """Returns the position that uses the result stored in `file`."""
