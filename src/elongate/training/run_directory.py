"""The directory of a run: its files, which configuration owns it, and crash-safe writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from elongate.atomic import remove, write_json, written_aside
from elongate.errors import ConfigError
from elongate.trees import flatten

Lines = list[dict[str, Any]]  # of metrics.jsonl

# Keys, or groups of keys, that may change between two starts of a run.
_FREE = ("overwrite", "plan", "tracking", "training.resume_from")


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run or of a base."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration that owns the directory."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One line for each logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model"

    @property
    def results(self) -> Path:
        """The results, section by section."""
        return self.path / "results.json"

    @property
    def samples(self) -> Path:
        """The results of single samples of the evaluations."""
        return self.path / "samples.jsonl"

    @contextmanager
    def locked(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Locks the directory for this process; the lock ends with the process, even if it is killed.

        Calls `waiting` twice a second while another process has the lock. Without `waiting`, raises `ConfigError`.
        """
        lock = FileLock(self.path / ".lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.5 if waiting else 0)
            except Timeout:
                if waiting is None:
                    rule = "is in use by another process"
                    raise ConfigError("hydra.run.dir", self.path, rule, "wait until it ends, or use another name=") from None
                waiting()
        try:
            yield
        finally:
            lock.release()

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises `ConfigError` if the directory belongs to another configuration."""
        if not self.config.exists():
            return
        there = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        if differing := _differing(there, config):
            rule = f"belongs to another configuration ({'; '.join(differing)})"
            raise ConfigError("hydra.run.dir", self.path, rule, "use another name=, or start over with overwrite=true")

    def claim(self, config: Mapping[str, Any], overwrite: bool) -> None:
        """Makes this configuration the owner of the directory; `overwrite` first removes the run that it contains."""
        for partial in self.path.glob(".*.partial"):
            remove(partial)
        # Remove only what a run has written, but keep the lock, which this process owns.
        if overwrite and self.config.exists():
            for path in self.path.iterdir():
                if path not in (self.path / ".lock", self.config):
                    remove(path)
            # Remove this last: until then the directory belongs to the earlier run.
            remove(self.config)
        if not self.config.exists():
            with written_aside(self.config) as aside:
                aside.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def discard_results(self) -> None:
        """Removes everything that follows from the trained weights: they are about to change."""
        for path in (self.results, self.samples, self.model):
            remove(path)

    def remove_if_unused(self) -> None:
        """Removes the directory of a run that was rejected before it started."""
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {".lock"}:
            remove(self.path)

    def read_results(self) -> dict[str, Any]:
        """Returns the sections that are finished; none for a new run."""
        return dict(json.loads(self.results.read_text(encoding="utf-8"))) if self.results.exists() else {}

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replaces results.json."""
        write_json(self.results, results)

    def read_metrics(self) -> Lines:
        """Returns the lines of metrics.jsonl."""
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()] if self.metrics.exists() else []

    def keep_metrics(self, earlier: Lines, last_step: int) -> Lines:
        """Rewrites metrics.jsonl to the `earlier` lines and the run's own up to `last_step`; later steps are repeated."""
        first = earlier[-1]["step"] if earlier else 0
        # An incomplete line was being written when the run was killed; its step comes after the checkpoint.
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True) if self.metrics.exists() else []
        own = [json.loads(line) for line in lines if line.endswith("\n")]
        kept = earlier + [line for line in own if first < line["step"] <= last_step]
        with written_aside(self.metrics) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return kept


class MetricsFile:
    """Appends lines to metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("a", encoding="utf-8")

    def append(self, line: Mapping[str, Any]) -> None:
        """Writes a line."""
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Makes the lines survive a crash. Call before a checkpoint that depends on them."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """`key=value there, value here` for every value that differs. A missing key equals null."""
    old, new = flatten(there), flatten(here)
    keys = [key for key in {**old, **new} if not _is_free(key) and old.get(key) != new.get(key)]
    return [f"{key}={old.get(key, 'absent')} there, {new.get(key, 'absent')} here" for key in keys]


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)
