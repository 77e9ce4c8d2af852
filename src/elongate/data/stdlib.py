"""The source code of the running Python's standard library: real text that every machine has."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elongate.data.files import File, digest, files_below
from elongate.data.source import Document, Source

NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(kw_only=True)
class Stdlib(Source):
    """One document per module, without tests and installed packages: about 12 MB in 600 files."""

    def documents(self) -> Iterator[Document]:
        for file in _modules():
            # A few modules are kept in another encoding on purpose (lib2to3 and the like).
            if text := file.path.read_bytes().decode("utf-8", errors="replace"):
                yield Document(file.name, text)

    def fingerprint(self) -> str:
        return digest(_modules(), "stdlib")


def _modules() -> list[File]:
    folder = Path(sysconfig.get_path("stdlib"))
    return [file for file in files_below(folder, without=NOT_LIBRARY) if file.path.suffix == ".py"]
