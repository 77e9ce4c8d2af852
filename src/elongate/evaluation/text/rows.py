"""Reads the rows of a task, each with its place: from JSON Lines files, from JSON documents, or from data sets of the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elongate.data.files import File, find_files
from elongate.data.hub import Hub
from elongate.data.jsonl import parsed
from elongate.errors import ConfigError
from elongate.foreign import foreign

Row = tuple[dict[str, Any], str]  # the row, and its place for error messages


def is_hub_id(path: Any) -> bool:
    """Whether the path has the form owner/name and is not a local file."""
    here = isinstance(path, str) and Path(path).expanduser().exists()
    return isinstance(path, str) and not here and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(?<!\.json)(?<!\.jsonl)", path) is not None


def local_files(path: Any) -> list[File]:
    """The JSON files of a path; empty for a folder without any, which `datasets` may be able to read."""
    return [file for file in find_files(path) if file.is_named or file.path.suffix in (".json", ".jsonl")]


def rows_in(path: Path) -> Iterator[Row]:
    """The rows of a file in JSON Lines, or of a file that is one JSON document. The format is detected from the content."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError("path", path, f"cannot be read ({error.strerror})", "give {key} a file of JSON") from error
    lines = [(f"{path}:{number}", line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise ConfigError("path", path, "is empty", "give {key} a file with records")
    if any(_is_object(line) for _, line in lines[:3]):
        found = [(parsed(line, where), where) for where, line in lines]
    else:
        document = _document(content, path)
        found = [(item, f"{path}[{i}]") for i, item in enumerate(document)] if isinstance(document, list) else [(document, str(path))]
    for row, where in found:
        if not isinstance(row, dict):
            raise ConfigError("path", where, f"is a {type(row).__name__}, not an object with fields", "fix or remove it")
        yield row, where


def rows_of_hub(path: str, name: str | None, split: str) -> Iterator[Row]:
    """The rows of a data set, or of a folder that `datasets` can read. Label numbers are replaced by the names of the labels."""
    hub = Hub(path=path, name=name, split=split)
    labels = hub.labels()
    for number, row in enumerate(hub.rows()):
        named = {column: names[row[column]] for column, names in labels.items()}
        yield row | named | ({"classes": labels["label"]} if "label" in labels else {}), f"{path} row {number}"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _document(content: bytes, path: Path) -> Any:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError("path", f"{path}:{line}", "this line is not UTF-8", "save the file as UTF-8") from error
    with foreign(lambda reason: ConfigError("path", path, f"cannot be read ({reason})", "fix it")):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            rule = f"this line is not JSON ({error.msg} at column {error.colno})"
            raise ConfigError("path", f"{path}:{error.lineno}", rule, "fix it") from error
