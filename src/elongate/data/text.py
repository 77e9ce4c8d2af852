"""Plain text files, one document per file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elongate.data.files import File, digest, find_files
from elongate.data.source import Document, Source
from elongate.errors import ConfigError, require


@dataclass(kw_only=True)
class Text(Source):
    """UTF-8 files. Files in a folder that are clearly not text (an image, an empty marker) are skipped.

    A file that was named, matched by a glob or ends in .txt must be text; otherwise `ConfigError` is raised.
    """

    path: Any  # a file, a folder (all files below it, hidden ones excepted), a glob, or a list of these

    def documents(self) -> Iterator[Document]:
        found = False
        for file in find_files(self.path):
            if text := _read(file):
                found = True
                yield Document(file.name, text)
        require(found, "path", self.path, "contains no text file", "choose another folder with {key}=<folder>")

    def fingerprint(self) -> str:
        return digest(find_files(self.path), "text")


def _read(file: File) -> str:
    """The text of a file; empty if the file should be skipped."""
    content = file.path.read_bytes()
    if b"\0" in content[:8192]:
        if not file.is_named and file.path.suffix != ".txt":
            return ""
        raise ConfigError("path", file.path, "is a binary file", "leave it out, or convert it to plain text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        rule = f"is not UTF-8 (byte {fault.start})"
        raise ConfigError("path", file.path, rule, "convert it: iconv -f latin1 -t utf-8") from fault
    require(bool(text) or not file.is_named, "path", file.path, "is empty", "leave it out")
    return text
