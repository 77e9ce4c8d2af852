"""Folders that are built once, by whichever process comes first, and rebuilt if they are damaged."""

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
    """Returns the folder with the files that `fill` wrote into it, filling it first unless it is there and sound.

    Safe when several processes ask at once and when one is killed at any moment: files are written aside, synced and
    renamed under a lock. A folder is sound if its files have the sizes that its manifest says.
    """
    from filelock import FileLock

    if _is_sound(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock")).acquire()
    except OSError as error:
        rule = f"cannot be written ({error.strerror})"
        raise ConfigError("cache", error.filename, rule, "choose another folder with {key}=<folder>") from error
    try:
        with lock:
            if not _is_sound(folder):
                _build(folder, fill)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RunError(f"{folder}: the disk is full; free some space, or put the cache on another disk") from error
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
