"""No tracker: the run is recorded in `metrics.jsonl`, `results.json` and the report only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elongate.tracking.tracker import Tracker, Tracking, Untracked
from elongate.tracking.values import Values


@dataclass(frozen=True, kw_only=True)
class Nothing(Tracking):
    """The choice of no tracker."""

    def tracker(self, directory: Path, configuration: Values) -> Tracker:
        return Untracked()
