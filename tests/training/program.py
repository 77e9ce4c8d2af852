"""`python train.py` in its own process, and the outcome of a run in a form that can be compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
DEADLINE = 120.0  # seconds that a test waits for a line


class Program:
    """A process that runs until the block ends. Its output is read line by line."""

    def __init__(self, cwd: Path, *arguments: str, without_torch: Path | None = None) -> None:
        path = str(ROOT / "src")
        if without_torch is not None:
            (without_torch / "torch").mkdir(parents=True, exist_ok=True)
            (without_torch / "torch/__init__.py").write_text("raise ImportError('torch was imported')")
            path = f"{without_torch}:{path}"
        cwd.mkdir(exist_ok=True)
        self.began = time.monotonic()
        self.lines: list[tuple[float, str]] = []  # of standard output, with the seconds since the start
        self.errors: list[tuple[float, str]] = []
        self._changed, self._ended = threading.Condition(), False
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=cwd, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        streams = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self._threads = [threading.Thread(target=self._read, args=pair) for pair in streams]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *fault: Any) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Waits for the end and returns the exit code."""
        code = self.process.wait()
        for thread in self._threads:
            thread.join()
        return code

    def printed(self, pattern: str) -> bool:
        """Whether a line of standard output begins like this."""
        return any(re.match(pattern, line) for _, line in self.lines)

    def wait_for(self, pattern: str) -> None:
        """Waits for a line that begins like this."""
        with self._changed:
            self._changed.wait_for(lambda: self.printed(pattern) or self._ended, timeout=DEADLINE)
        assert self.printed(pattern), f"no line like {pattern}: {self.stderr}"

    @property
    def stderr(self) -> str:
        """Standard error until now."""
        return "".join(line for _, line in self.errors)

    def _read(self, stream: IO[str], lines: list[tuple[float, str]]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    lines.append((time.monotonic() - self.began, line))
                    self._changed.notify()
        if stream is self.process.stdout:
            with self._changed:
                self._ended = True
                self._changed.notify()


def write_documents(folder: Path, count: int) -> None:
    """Writes documents of a few thousand characters."""
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:02d}.txt").write_text("".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(120)))


def without_times(value: Any) -> Any:
    """The value without figures that differ between repeated runs."""
    if isinstance(value, dict):
        changing = ("seconds", "tokens_per_second", "mfu", "peak_memory_bytes", "provenance")
        return {key: without_times(v) for key, v in value.items() if key not in changing}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a finished run has written, without times and memory."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert not list(folder.parent.glob("*/**/*.partial"))
    assert (folder / "report.html").exists()
    tables = {path.name: path.read_text() for path in sorted(folder.glob("*.csv"))}
    results = without_times(json.loads((folder / "results.json").read_text()))
    weights = (folder / "model/model.safetensors").read_bytes()
    return {"weights": weights, "metrics": without_times(lines), "results": results} | tables
