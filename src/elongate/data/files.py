"""Files, globs and folders as the user writes them, and one hash over their contents."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from elongate.errors import ConfigError, require

REMEDY = "give {key} a file, a folder, a glob or a [list,of,them]"


@dataclass(frozen=True)
class File:
    name: str  # posix path below what the user named, so that it stays the same when a folder moves
    path: Path
    is_named: bool  # by the user or by a glob, not merely found in a folder


def find_files(path: Any) -> list[File]:
    """The files of one or several entries, each file once, in the order of the entries and sorted within each."""
    entries = path if isinstance(path, list) else [path]
    require(entries != [], "path", path, "names nothing", REMEDY)
    found: dict[Path, File] = {}
    for entry in entries:
        require(isinstance(entry, str) and entry != "", "path", entry, "is no path", REMEDY)
        for file in _files_of(Path(entry).expanduser()):
            found.setdefault(file.path.resolve(), file)
    return list(found.values())


def _files_of(entry: Path) -> Iterator[File]:
    if entry.is_dir():
        yield from files_below(entry)
    elif entry.exists():
        yield File(entry.name, entry, is_named=True)
    else:
        root = Path(*takewhile(lambda part: not glob.has_magic(part), entry.parts))
        matches = [match for match in map(Path, sorted(glob.glob(str(entry), recursive=True))) if match.is_file()]
        rule = "matches no file" if glob.has_magic(str(entry)) else "no such file or folder"
        require(bool(matches), "path", entry, rule, REMEDY)
        for match in matches:
            yield File(match.relative_to(root).as_posix(), match, is_named=True)


def files_below(folder: Path, without: Collection[str] = ()) -> list[File]:
    """All files below a folder, sorted by their posix path; neither hidden ones nor folders named in `without`."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in without and not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        files += [File(path.relative_to(folder).as_posix(), path, is_named=False) for path in paths]
    return sorted(files, key=lambda file: file.name)


def digest(files: Iterable[File], *settings: Any) -> str:
    """One hash over the names and bytes of the files, and the settings that decide how they are read."""
    total = hashlib.sha256(json.dumps(settings).encode())
    for file in files:
        try:
            with file.path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as fault:
            rule = f"cannot be read ({fault.strerror})"
            raise ConfigError("path", file.path, rule, "fix it or leave it out") from fault
        total.update(json.dumps([file.name, content]).encode())
    return total.hexdigest()
