"""The files of a local folder that `datasets` reads, where the library itself names no file or crashes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from elongate.data.files import File
from elongate.errors import ConfigError

_OPENERS: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DEEP = 500  # opening brackets of a line from which on it may be nested too deep


def damaged_file(files: list[File]) -> Path | None:
    """The file that is to blame for a fault: the only one, or the first one that cannot be decompressed; None: unknown."""
    if len(files) == 1:
        return files[0].path
    return next((file.path for file in files if not _can_be_decompressed(file.path)), None)


def check_nesting(files: Iterable[File]) -> None:
    """Raises `ConfigError` for a line of JSON whose brackets are nested so deep that the parser of `datasets` crashes the process."""
    for path in (file.path for file in files if {".json", ".jsonl"} & set(file.path.suffixes[-2:])):
        if not _can_be_decompressed(path):
            continue  # the library reports it
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.count(b"[") + line.count(b"{") > _DEEP and _is_too_deep(line):
                    raise ConfigError("path", f"{path}:{number}", "this line is nested too deep", "fix or remove it")


def _open(path: Path) -> IO[Any]:
    return _OPENERS.get(path.suffix, open)(path, "rb")


def _can_be_decompressed(path: Path) -> bool:
    if path.suffix not in _OPENERS:
        return True
    try:
        with _open(path) as stream:
            while stream.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False
    return True


def _is_too_deep(line: bytes) -> bool:
    try:
        json.loads(line)
    except RecursionError:
        return True
    except ValueError:
        return False
    return False
