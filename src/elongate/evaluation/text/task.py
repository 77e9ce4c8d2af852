"""A task on text: records from files, prompts of at most the length, and figures over the samples with their standard errors."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import ConfigError, inside, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.presentation.text_task import TextTaskPresentation
from elongate.evaluation.text.prompt import Prompt, check_template, prompt_of
from elongate.evaluation.text.records import Record, drawn
from elongate.evaluation.text.rows import Row, is_hub_id, local_files, rows_in, rows_of_hub
from elongate.evaluation.text.shapes import Shape, records_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

BATCH_TOKENS = 8192  # read together in one forward pass


@dataclass(frozen=True, kw_only=True)
class TextTask(TextTaskPresentation, Evaluation):
    """An evaluation on the records of files or of a data set."""

    path: Any  # a file, a folder, a glob, a list of these, or a hub id (owner/name)
    name: str | None = None  # configuration of a hub data set that has several
    split: str = "test"  # of a hub data set
    num_samples: int = 50  # records at most, drawn with the seed, at least 1
    length: int | None = None  # tokens of prompt and answer together, at least 2; null: the target length
    template: str  # contains {context} once, and {question} and {classes} if the task has them
    language: str | None = None  # of the references: zh is scored by characters; null: as in the records, else detected from their text

    shapes: ClassVar[tuple[Shape, ...]]  # formats that this task can read, in the order in which they are tried
    packages: ClassVar[dict[str, str]]  # packages that score it: module to name on PyPI
    measures: ClassVar[tuple[str, ...]]  # names of the figures, in the order of the tables

    def __post_init__(self) -> None:
        require(self.num_samples > 0, "num_samples", self.num_samples, "must be at least 1", "use {key}=50")
        require(self.length is None or self.length > 1, "length", self.length, "must be at least 2", "use {key}=null")
        rule = "must be a code of two or three lower-case letters"
        require(self.language is None or bool(re.fullmatch("[a-z]{2,3}", self.language)), "language", self.language, rule, "use {key}=zh")
        check_template(self.template)
        for module, package in self.packages.items():
            rule, remedy = f"needs {package}, which is not installed", f"install it: python -m pip install {package}"
            require(find_spec(module) is not None, "", self.word, rule, remedy)
        if not is_hub_id(self.path) and local_files(self.path):
            # Report faults in a file before anything else is loaded or trained.
            _ = self.records

    def reads(self) -> list[Path]:
        return [] if is_hub_id(self.path) else [file.path for file in local_files(self.path)]

    def header(self, setting: Setting) -> dict[str, Any]:
        prompts = self.prompts(setting)
        return {
            "path": self.path,
            "length": self._length(setting),
            "n": len(prompts),
            "records": len(self.records),
            "truncated": sum(prompt.is_cut for _, prompt in prompts),
            "languages": sorted({record.language for record, _ in prompts}),
            "template": self.template,
            "figures": list(self.measures),
            "signatures": self.signatures([record for record, _ in prompts]),
        }

    @abstractmethod
    def signatures(self, records: list[Record]) -> dict[str, str]:
        """How each figure is computed: the signature given by its package."""

    @abstractmethod
    def reserved(self, record: Record, setting: Setting) -> int:
        """Tokens of the length that are kept free for the answer."""

    @cached_property
    def records(self) -> list[Record]:
        """All records. Raises `ConfigError` for a malformed row, or if there are none."""
        with inside(f"evaluation.{self.word}"):
            records = [record if self.language is None else replace(record, language=self.language) for record in self._read()]
            require(bool(records), "path", self.path, "contains no records", "give {key} a file with records")
        return records

    def prompts(self, setting: Setting) -> list[tuple[Record, Prompt]]:
        """The drawn records with their prompts. Raises `ConfigError` if a question leaves no room for its context."""
        length, found, needed = self._length(setting), [], {}
        for record in drawn(self.records, self.num_samples, setting.seed):
            reserved = self.reserved(record, setting)
            prompt = prompt_of(record, self.template, length - reserved, setting.tokenizer)
            if isinstance(prompt, Prompt):
                found.append((record, prompt))
            else:
                needed[record.id] = prompt + reserved
        if needed:
            longest = max(needed, key=lambda sample: needed[sample])
            rule = f"is too short for sample {longest}: its question and an answer leave no room for a context"
            raise ConfigError(f"evaluation.{self.word}.length", length, rule, f"use {{key}}={needed[longest]} or more")
        return found

    def known(self, prompts: list[tuple[Record, Prompt]], setting: Setting) -> dict[int, str]:
        """Predictions of the samples that are already measured, by index."""
        records = {i: setting.samples.get(name_of(i, prompts)) for i in range(len(prompts))}
        return {i: record["prediction"] for i, record in records.items() if record is not None}

    def batches(self, prompts: list[tuple[Record, Prompt]], known: dict[int, str], more: list[Any] | None = None) -> Iterator[list[int]]:
        """Indices of samples without a prediction, in batches of prompts of equal length and of equal `more`, if that is given."""
        kinds: dict[Any, list[int]] = {}
        for i, (_, prompt) in enumerate(prompts):
            if i in known:
                continue
            kinds.setdefault((len(prompt.tokens), None if more is None else more[i]), []).append(i)
        for (length, _), numbers in kinds.items():
            rows = max(1, BATCH_TOKENS // length)
            yield from (numbers[i : i + rows] for i in range(0, len(numbers), rows))

    def row(self, count: int, estimates: dict[str, tuple[float, float | None]]) -> dict[str, Any]:
        """The row of a model in the results. Figures are None if the model could read no sample."""
        row: dict[str, Any] = {"n": count}
        for figure in self.measures:
            row[figure], row[f"{figure}_standard_error"] = estimates.get(figure, (None, None))
        return row

    def _length(self, setting: Setting) -> int:
        return setting.target_length if self.length is None else self.length

    def _read(self) -> Iterator[Record]:
        for row, where in self._rows():
            yield from records_of(row, where, self.shapes)

    def _rows(self) -> Iterator[Row]:
        if is_hub_id(self.path):
            yield from rows_of_hub(self.path, self.name, self.split)
        elif files := local_files(self.path):
            for file in files:
                yield from rows_in(file.path)
        else:
            yield from rows_of_hub(str(self.path), self.name, self.split)


def name_of(number: int, prompts: list[tuple[Record, Prompt]]) -> str:
    """The name of a sample: its index and id, because ids can occur several times."""
    return f"{number}/{prompts[number][0].id}"


def texts_of(prompts: list[tuple[Record, Prompt]], numbers: list[int]) -> np.ndarray:
    """The tokens of prompts of equal length: samples × length."""
    import numpy as np

    return np.stack([prompts[i][1].tokens for i in numbers])
