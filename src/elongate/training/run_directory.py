"""The files of a run, which configuration owns the directory, and crash-safe writes."""

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

# Keys that may differ within one run.
_FREE = ("overwrite", "plan", "tracking")


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @contextmanager
    def locked(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Lets one process at a time work in the directory. The lock ends with the process.

        While another process has the lock, `waiting` is called twice a second; without `waiting`, raises `ConfigError`.
        """
        lock = FileLock(self.path / ".lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.5 if waiting else 0)
            except Timeout:
                if waiting is None:
                    rule = "is being worked on by another process"
                    raise ConfigError("hydra.run.dir", self.path, rule, "wait for it, or choose another name=") from None
                waiting()
        try:
            yield
        finally:
            lock.release()

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises `ConfigError` if the directory belongs to another configuration."""
        if not self.config.exists():
            return
        there = yaml.safe_load(self.config.read_text())
        if differing := _differing(there, config):
            rule = f"belongs to another configuration ({'; '.join(differing)})"
            raise ConfigError("hydra.run.dir", self.path, rule, "choose another name=, or start over with overwrite=true")

    def claim(self, config: Mapping[str, Any], overwrite: bool) -> None:
        """Assigns the directory to this configuration. With `overwrite`, removes the files of the earlier run."""
        for partial in self.path.glob(".*.partial"):
            remove(partial)
        # Only a directory that a run made is emptied, while its lock is held.
        if overwrite and self.config.exists():
            for path in self.path.iterdir():
                if path not in (self.path / ".lock", self.config):
                    remove(path)
            # Last: until then the directory still identifies the earlier run.
            remove(self.config)
        if not self.config.exists():
            with written_aside(self.config) as aside:
                aside.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def remove_if_unused(self) -> None:
        """Removes the directory if the run has not started."""
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {".lock"}:
            remove(self.path)

    def read_results(self) -> dict[str, Any]:
        """The results so far, by section; empty if there are none."""
        return dict(json.loads(self.results.read_text())) if self.results.exists() else {}

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_json(self.results, results)

    def read_metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.metrics.read_text().splitlines()] if self.metrics.exists() else []

    def keep_metrics(self, earlier: list[dict[str, Any]], last_step: int) -> list[dict[str, Any]]:
        """Rewrites the metrics to the `earlier` lines and this run's lines up to `last_step`; later steps will be repeated."""
        first = earlier[-1]["step"] if earlier else 0
        # A line that was incomplete when the run was killed is after the checkpoint.
        lines = self.metrics.read_text().splitlines(keepends=True) if self.metrics.exists() else []
        own = [json.loads(line) for line in lines if line.endswith("\n")]
        kept = earlier + [line for line in own if first < line["step"] <= last_step]
        with written_aside(self.metrics) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return kept


class MetricsFile:
    """Appends lines to metrics.jsonl. `sync` makes them durable before a checkpoint relies on them."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("a")

    def append(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """`key=value there, value here` for every key that differs."""
    old, new = _leaves(there), _leaves(here)
    keys = [key for key in {**old, **new} if key.split(".")[0] not in _FREE and old.get(key, "absent") != new.get(key, "absent")]
    return [f"{key}={old.get(key, 'absent')} there, {new.get(key, 'absent')} here" for key in keys]


def _leaves(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{path}{key}.")
        else:
            leaves[f"{path}{key}"] = value
    return leaves
