"""Runs that W&B wrote offline, read from its .wandb files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTINGS = ("identity", "project", "entity", "name", "group", "job_type", "notes", "tags")


@dataclass
class OfflineRun:
    """The contents of a .wandb file."""

    identity: str = ""
    project: str = ""
    entity: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    commit: str = ""
    console: str = ""
    num_system_metrics: int = 0
    configuration: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def settings(self) -> dict[str, Any]:
        """What identifies the run and describes it."""
        return {name: getattr(self, name) for name in SETTINGS}

    def train(self, key: str) -> dict[int, float]:
        return {step: row[f"train/{key}"] for step, row in self.history.items() if f"train/{key}" in row}

    def logged(self, key: str) -> dict[str, Any]:
        parts = [(name, row[name]) for row in self.history.values() for name in row if name.startswith(f"{key}/")]
        return {name.removeprefix(f"{key}/"): value for name, value in parts}


def offline_runs(directory: Path) -> list[OfflineRun]:
    import wandb

    wandb.teardown()  # W&B's process closes its files when it ends, if not before
    return [read_offline_run(path) for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"))]


def read_offline_run(path: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for encoded in read_records(path.read_bytes()):
        record = Record.FromString(encoded)
        for item in record.run.config.update:
            run.configuration[item.key] = json.loads(item.value_json)
        if record.HasField("run"):
            read_settings(run, record.run)
        run.console += record.output_raw.line
        run.num_system_metrics += len(record.stats.item)
        values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if values:
            run.history[values["_step"]] = values
        for item in record.summary.update:
            run.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        if record.HasField("exit"):
            run.exit_code = record.exit.exit_code
    return run


def read_settings(run: OfflineRun, record: Any) -> None:
    run.identity, run.name, run.group = record.run_id, record.display_name, record.run_group
    run.project, run.entity, run.job_type, run.notes = record.project, record.entity, record.job_type, record.notes
    run.tags, run.commit = list(record.tags), record.git.commit


def read_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: a header, then blocks of 32 KiB with pieces of them: whole, first, middle, last."""
    assert content[:4] == b":W&B"
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""
