"""Console output: lines, warnings, and progress as a bar in a terminal or as plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

PLAIN_SECONDS = 10.0  # between two lines of progress without a terminal


def say(text: str) -> None:
    """Prints a line above the progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """Prints a warning on standard error, above the progress bar."""
    tqdm.write(f"warning: {text}", file=sys.stderr)


class TrainingBar:
    """Progress of one stage, in steps."""

    def __init__(self, stage: str, length: int, first: int, last: int) -> None:
        self._stage, self._length, self._last, self._said = stage, length, last, 0.0
        self._first, self._began = first, time.monotonic()
        self._bar = tqdm(total=last, initial=first - 1, desc=f"{stage} {length}", unit="step", leave=False) if sys.stderr.isatty() else None

    def step(self, line: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s", refresh=False)
            self._bar.update(line["step"] - self._bar.n)
            return
        now, done = time.monotonic(), line["step"] - self._first + 1
        if now - self._said >= PLAIN_SECONDS or line["step"] == self._last:
            self._said = now
            left = (now - self._began) / done * (self._last - line["step"])
            say(
                f"{self._stage} {self._length}  step {line['step']}/{self._last}  loss {line['loss']:.3f}  "
                f"{line['tokens_per_second']:,.0f} tokens/s  {left:.0f} s left"
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class SearchBar:
    """Progress of a search, in candidates."""

    def __init__(self, word: str) -> None:
        self._word, self._began, self._said = word, time.monotonic(), 0.0
        self._bar = tqdm(desc=f"{word} search", unit="candidate", leave=False) if sys.stderr.isatty() else None

    def step(self, done: int, total: int, best: float) -> None:
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(f"best loss {best:.4f}", refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_SECONDS or done == total:
            self._said = now
            left = (now - self._began) / done * (total - done)
            say(f"{self._word} search  candidate {done}/{total}  best loss {best:.4f}  {left:.0f} s left")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
