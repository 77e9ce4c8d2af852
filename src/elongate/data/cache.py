"""Folders that the first process builds, and that are rebuilt if they are damaged."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

from elongate.atomic import written_aside
from elongate.errors import ConfigError, RunError

MANIFEST = "manifest.json"
FULL = {errno.ENOSPC, errno.EDQUOT}


def cached_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Returns the folder with the files that `fill` writes; calls `fill` only if the folder is missing or damaged.

    Safe with several processes and if one is killed: files are written aside, synced and renamed under a lock.
    A folder is sound if its files have the sizes in its manifest.
    """
    from filelock import FileLock

    if _is_sound(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock")).acquire()
    except OSError as fault:
        rule = f"cannot be written ({fault.strerror})"
        raise ConfigError("cache", fault.filename, rule, "choose another folder with {key}=<folder>") from fault
    try:
        with lock:
            if not _is_sound(folder):
                _build(folder, fill)
    except OSError as fault:
        if fault.errno not in FULL:
            raise
        raise RunError(f"{folder}: the disk is full; free some space, or put the cache on another disk") from fault
    return folder


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
    with written_aside(folder) as aside:
        aside.mkdir()
        fill(aside)
        sizes = {path.name: path.stat().st_size for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")


def _is_sound(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
