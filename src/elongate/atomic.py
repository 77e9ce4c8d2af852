"""Files that are complete or absent: written under another name, synced, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A path next to `target` at which the block writes a file or a folder.

    It is renamed to `target` when the block ends, and removed if the block raises.
    """
    for left_behind in target.parent.glob(f".{target.name}.*.partial"):
        remove(left_behind)
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        for path in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            if path.is_file():
                path.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner can read
            _sync(path)
        if target.is_dir():
            remove(target)
        aside.rename(target)
    except SafetensorError as fault:
        remove(aside)
        # safetensors reports faults of the system in its own words: "… (os error 28)".
        if number := re.search(r"os error (\d+)", str(fault)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from fault
        raise
    except BaseException:  # also Ctrl-C: nothing incomplete is left behind, and the exception is raised again
        remove(aside)
        raise
    # The rename itself is only on the disk once the folder that contains the name is.
    _sync(target.parent)


def write_json(target: Path, value: Any) -> None:
    """Writes the value as a JSON file. Raises `ValueError` for a number that is not finite."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with written_aside(target) as aside:
        aside.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Removes a file or a folder with its contents. A missing file is not an error."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
