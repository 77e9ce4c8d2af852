"""JSON lines: one document per line, its text in one field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elongate.data.files import File, digest, find_files
from elongate.data.source import Document, Source, text_of
from elongate.errors import ConfigError, require
from elongate.foreign import foreign


@dataclass(kw_only=True)
class Jsonl(Source):
    """Records such as {"text": "…"}. Blank lines and empty texts are skipped."""

    path: Any  # a file, a folder (all *.jsonl below it), a glob, or a list of these
    field: str = "text"  # name of the field with the text

    def documents(self) -> Iterator[Document]:
        for file in self._files():
            with file.path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip() and (text := self._text(line, f"{file.path}:{number}")):
                        yield Document(f"{file.name}:{number}", text)

    def fingerprint(self) -> str:
        return digest(self._files(), "jsonl", self.field)

    def _files(self) -> list[File]:
        files = [file for file in find_files(self.path) if file.is_named or file.path.suffix == ".jsonl"]
        require(bool(files), "path", self.path, "contains no .jsonl file", "choose another folder with {key}=<folder>")
        return files

    def _text(self, line: bytes, where: str) -> str:
        return text_of(parsed(line, where), self.field, where)


def parsed(line: bytes, where: str) -> Any:
    """The value of a line of JSON. Raises `ConfigError` with the place `where`."""
    try:
        text = line.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as fault:
        raise ConfigError("path", where, "this line is not UTF-8", "fix or remove it") from fault
    with foreign(lambda reason: ConfigError("path", where, f"this line cannot be read ({reason})", "fix or remove it")):
        try:
            return json.loads(text)
        except json.JSONDecodeError as fault:
            rule = f"this line is not JSON ({fault.msg} at column {fault.colno})"
            raise ConfigError("path", where, rule, "fix or remove it") from fault
