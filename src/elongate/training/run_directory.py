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
from elongate.console import warn
from elongate.errors import ConfigError, RunError, first_line
from elongate.trees import flatten

Lines = list[dict[str, Any]]  # of metrics.jsonl

# Keys, or groups of keys, that may change between two starts of a run: no result depends on them.
_FREE = (
    *("overwrite", "plan", "sweep", "tracking", "device", "kernels", "memory"),
    *("training.resume_from", "training.log_steps", "training.checkpoint_steps", "training.keep_checkpoints"),
)
_OTHER_RUN = "use another name=, or start over with overwrite=true"


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
        """Raises `ConfigError` if the directory belongs to another configuration, or if it is unknown to which."""
        if not self.config.exists():
            if left := [path.name for path in self._written if path.exists()]:
                raise ConfigError("hydra.run.dir", self.path, f"contains {left[0]} of a run without its config.yaml", _OTHER_RUN)
            return
        there = self._read_config()
        if differing := _differing(there, config):
            listed = "; ".join(f"{key}={old} there, {new} here" for key, (old, new) in differing.items())
            rule = f"belongs to another configuration ({listed})"
            raise ConfigError("hydra.run.dir", self.path, rule, self._remedy(differing))

    def claim(self, config: Mapping[str, Any], overwrite: bool) -> None:
        """Makes this configuration the owner of the directory; `overwrite` first removes the run that it contains."""
        for partial in self.path.glob(".*.partial"):
            remove(partial)
        # Remove only what a run has written, but keep the lock, which this process owns.
        if overwrite:
            # Without a configuration the folder may contain files of others.
            for path in self.path.iterdir() if self.config.exists() else self._written:
                if path not in (self.path / ".lock", self.config):
                    remove(path)
            # Remove this last: until then the directory belongs to the earlier run.
            remove(self.config)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:
            with written_aside(self.config) as aside:
                aside.write_text(text, encoding="utf-8")

    def repair(self) -> None:
        """Removes results that cannot be read, so the run measures again. Call with the lock."""
        try:
            self.read_results()
        except RunError as fault:
            warn(f"{fault}; measuring again")
            remove(self.results)

    def discard_results(self) -> None:
        """Removes everything that follows from the trained weights: they are about to change."""
        for path in (self.results, self.samples, self.model):
            remove(path)

    def remove_if_unused(self) -> None:
        """Removes the directory of a run that was rejected before it started."""
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {".lock"}:
            remove(self.path)

    def read_results(self) -> dict[str, Any]:
        """Returns the sections that are finished; none for a new run. Raises `RunError` if the file is damaged."""
        if not self.results.exists():
            return {}
        try:
            found = json.loads(self.results.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as fault:
            raise RunError(f"{self.results} is damaged ({first_line(fault)})") from fault
        if not isinstance(found, dict):
            raise RunError(f"{self.results} is damaged (it contains no object)")
        return found

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replaces results.json."""
        write_json(self.results, results)

    def read_metrics(self) -> Lines:
        """Returns the lines of metrics.jsonl, up to the first one that is damaged or incomplete."""
        found: Lines = []
        text = self.metrics.read_bytes().decode("utf-8", errors="replace") if self.metrics.exists() else ""
        for line in text.splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                break
            # A run that is killed can leave an incomplete line; its step comes after the checkpoint.
            if not line.endswith("\n") or not isinstance(record, dict) or "step" not in record:
                break
            found.append(record)
        return found

    def keep_metrics(self, earlier: Lines, last_step: int) -> Lines:
        """Rewrites metrics.jsonl to the `earlier` lines and the run's own up to `last_step`; later steps are repeated."""
        first = earlier[-1]["step"] if earlier else 0
        kept = earlier + [line for line in self.read_metrics() if first < line["step"] <= last_step]
        with written_aside(self.metrics) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return kept

    @property
    def _written(self) -> tuple[Path, ...]:
        """What every run writes besides its configuration."""
        return self.metrics, self.checkpoints, self.model, self.results, self.samples

    def _read_config(self) -> dict[str, Any]:
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as fault:
            raise ConfigError("hydra.run.dir", self.path, f"its config.yaml is damaged ({first_line(fault)})", _OTHER_RUN) from fault
        if not isinstance(found, dict):
            raise ConfigError("hydra.run.dir", self.path, "its config.yaml is damaged (it contains no keys)", _OTHER_RUN)
        return found

    def _remedy(self, differing: Mapping[str, Any]) -> str:
        """What to do instead of changing these keys of a run."""
        if all(key.startswith(("evaluation.", "context.evaluation_attention")) for key in differing):
            return f"measure the trained model with evaluate.py checkpoint={self.path}, {_OTHER_RUN}"
        if differing.keys() == {"steps"}:
            return f"to train it further, start from its export with model=pretrained model.source={self.model}; {_OTHER_RUN}"
        return _OTHER_RUN


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


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The values there and here by their keys, where they differ. A missing key equals null; an evaluation may be added."""
    old, new = flatten(there), flatten(here)
    differing = {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}
    added = {f"evaluation.{word}" for word in (here.get("evaluation") or {}).keys() - (there.get("evaluation") or {}).keys()}
    return {
        key: (old.get(key, "absent"), new.get(key, "absent"))
        for key, values in differing.items()
        if not _is_free(key, *values) and ".".join(key.split(".")[:2]) not in added
    }


def _is_free(key: str, old: Any, new: Any) -> bool:
    if key == "memory.detach":  # truncates gradients
        return bool(old) == bool(new)
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)
