"""samples.jsonl: one line for each sample as soon as it is measured, so that a stopped evaluation resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

Record = dict[str, Any]
Key = tuple[str, str, str]  # evaluation, row, sample


class Samples:
    """The samples of all evaluations and rows. `of` identifies what is measured: other samples are dropped."""

    def __init__(self, file: Path | None = None, of: str = "") -> None:
        self._file, self._records = file, dict[Key, Record]()
        if file is None:
            return
        lines = list(_whole_lines(file)) if file.exists() else []
        if lines[:1] == [{"of": of}]:
            self._records = {_key(line): line for line in lines[1:]}
        # Rewritten, because a line that was being written when the program ended is incomplete.
        file.write_text("".join(map(_line, [{"of": of}, *self._records.values()])), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Samples:
        """The samples of any evaluation, read only. Raises `ConfigError` for a file of another kind."""
        samples = cls()
        try:
            samples._records = {_key(line): line for line in list(_whole_lines(file))[1:]}
        except (ValueError, KeyError, TypeError):
            raise ConfigError("", file, "is not a samples.jsonl of an evaluation", "evaluate that model again") from None
        return samples

    def of_row(self, row: str) -> dict[tuple[str, str], Record]:
        """Records by evaluation and digest of the text: names differ if another number of samples was measured."""
        return {
            (evaluation, record["text"]): record
            for (evaluation, sample_row, _), record in self._records.items()
            if sample_row == row and "text" in record
        }

    def part(self, evaluation: str, row: str) -> Part:
        """The samples of one evaluation and row."""
        return Part(self, evaluation, row)

    def get(self, key: Key) -> Record | None:
        """The record of a sample; None if it is not measured yet."""
        return self._records.get(key)

    def add(self, records: list[Record]) -> None:
        """Store records, and append them to the file if there is one."""
        self._records |= {_key(record): record for record in records}
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write("".join(map(_line, records)))


@dataclass(frozen=True)
class Part:
    """The samples of one evaluation of one model."""

    samples: Samples
    evaluation: str
    row: str

    def get(self, sample: str) -> Record | None:
        """The record of this sample; None if it is not measured yet."""
        return self.samples.get((self.evaluation, self.row, sample))

    def add(self, records: dict[str, Record]) -> None:
        """Store samples that were measured together, by their names. Values must be valid JSON."""
        self.samples.add([{"evaluation": self.evaluation, "row": self.row, "sample": name} | record for name, record in records.items()])


def digest_of(*tokens: np.ndarray) -> str:
    """Equal for equal tokens: identifies the same sample in another evaluation."""
    digest = hashlib.sha256()
    for part in tokens:
        digest.update(part.astype("<i8").tobytes() + b"|")
    return digest.hexdigest()[:16]


def _key(record: Record) -> Key:
    return record["evaluation"], record["row"], record["sample"]


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _whole_lines(file: Path) -> Iterator[Record]:
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
