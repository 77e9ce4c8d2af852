"""Files that are whole or not there: written aside, synced, renamed."""

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
    """A path beside `target` to write a file or a folder at, renamed to `target` when the block ends well and removed when it does not."""
    for left_behind in target.parent.glob(f".{target.name}.*.partial"):
        remove(left_behind)
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        for path in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            _sync(path)
        if target.is_dir():
            remove(target)
        aside.rename(target)
    except SafetensorError as fault:
        remove(aside)
        # It words the system's faults itself: "… (os error 28)".
        if number := re.search(r"os error (\d+)", str(fault)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from fault
        raise
    except BaseException:
        remove(aside)
        raise
    _sync(target.parent)


def write_json(target: Path, value: Any) -> None:
    with written_aside(target) as aside:
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
