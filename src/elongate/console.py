"""Output to the terminal: lines, warnings, and progress as a bar (in a terminal) or as plain lines (elsewhere)."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

PLAIN_SECONDS = 10.0  # between two progress lines where there is no terminal


def say(text: str) -> None:
    """Prints a line, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """Prints a warning to standard error."""
    tqdm.write(f"warning: {text}", file=sys.stderr)


def approximate(seconds: float) -> str:
    """A duration in one unit: `40 s`, `12 min`, `3.5 h`. At least one second."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class TrainingBar:
    """Progress of the steps of one stage."""

    def __init__(self, stage: str, length: int, first: int, last: int) -> None:
        self._stage, self._length, self._last, self._printed = stage, length, last, 0.0
        self._bar = tqdm(total=last, initial=first - 1, desc=f"{stage} {length}", unit="step", leave=False) if sys.stderr.isatty() else None

    def step(self, line: dict[str, Any], remaining: str) -> None:
        """Shows a line of `metrics.jsonl` and the estimated time until the run is finished."""
        speed = f"{line['tokens_per_second']:,.0f} tokens/s" + (f", MFU {line['mfu']:.0%}" if "mfu" in line else "")
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {line['loss']:.3f}, {speed}, {remaining}", refresh=False)
            self._bar.update(line["step"] - self._bar.n)
            return
        now = time.monotonic()
        if now - self._printed >= PLAIN_SECONDS or line["step"] == self._last:
            self._printed = now
            say(f"{self._stage} {self._length}  step {line['step']}/{self._last}  loss {line['loss']:.3f}  {speed}  {remaining}")

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()


class SearchBar:
    """Progress of the candidates of a search."""

    def __init__(self, word: str) -> None:
        self._word, self._began, self._printed = word, time.monotonic(), 0.0
        self._bar = tqdm(desc=f"{word} search", unit="candidate", leave=False) if sys.stderr.isatty() else None

    def step(self, done: int, total: int, best: float) -> None:
        """Shows how many candidates were tried and the best loss."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(f"best loss {best:.4f}", refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._printed >= PLAIN_SECONDS or done == total:
            self._printed = now
            remaining = approximate((now - self._began) / done * (total - done))
            left = "" if done == total else f"  about {remaining} left in the search"
            say(f"{self._word} search  candidate {done}/{total}  best loss {best:.4f}{left}")

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
