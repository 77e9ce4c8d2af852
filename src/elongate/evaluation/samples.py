"""samples.jsonl: a line a sample, written as soon as it is measured, so that an evaluation that was stopped goes on where it was."""

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
    """`of` names what is measured: what an earlier evaluation of something else has left in the file is not gone on with."""

    def __init__(self, file: Path | None = None, of: str = "") -> None:
        self._file, self._known = file, dict[Key, Record]()
        if file is None:
            return
        lines = list(_whole_lines(file)) if file.exists() else []
        if lines[:1] == [{"of": of}]:
            self._known = {_key(line): line for line in lines[1:]}
        # Written anew: a line that was being written when the program ended is no line.
        file.write_text("".join(map(_line, [{"of": of}, *self._known.values()])), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Samples:
        """What any evaluation wrote, to look at. Raises `ConfigError` for a file that is none of ours."""
        samples = cls()
        try:
            samples._known = {_key(line): line for line in list(_whole_lines(file))[1:]}
        except (ValueError, KeyError, TypeError):
            raise ConfigError("", file, "is no samples.jsonl of an evaluation", "evaluate that model again") from None
        return samples

    def of_row(self, row: str) -> dict[tuple[str, str], Record]:
        """By evaluation and text: a sample has another name where another number of them was measured."""
        return {
            (evaluation, record["text"]): record for (evaluation, of, _), record in self._known.items() if of == row and "text" in record
        }

    def part(self, evaluation: str, row: str) -> Part:
        return Part(self, evaluation, row)

    def get(self, key: Key) -> Record | None:
        return self._known.get(key)

    def add(self, records: list[Record]) -> None:
        self._known |= {_key(record): record for record in records}
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
        """What was written of this sample before; None: it is yet to be measured."""
        return self.samples.get((self.evaluation, self.row, sample))

    def add(self, records: dict[str, Record]) -> None:
        """Samples that were measured together, by their names: values that JSON has."""
        self.samples.add([{"evaluation": self.evaluation, "row": self.row, "sample": name} | record for name, record in records.items()])


def digest_of(*tokens: np.ndarray) -> str:
    """Equal for equal tokens: by it the same sample is known in another evaluation."""
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
