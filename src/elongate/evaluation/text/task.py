"""A task on text: records from files, prompts that fit, and figures over the samples with their standard errors."""

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

BATCH_TOKENS = 8192  # read at once


@dataclass(frozen=True, kw_only=True)
class TextTask(TextTaskPresentation, Evaluation):
    path: Any  # a file, a folder, a glob, a list of these, or a hub id (owner/name)
    name: str | None = None  # configuration of a data set of the hub, where it has several
    split: str = "test"  # of a data set of the hub
    num_samples: int = 50  # drawn by the seed, at most so many, at least 1
    length: int | None = None  # tokens, prompt and answer together, at least 2; null: the target length
    template: str  # with {context} once; {question} and {classes} where the task has them
    language: str | None = None  # of the references: zh is scored by characters; null: as the records say, else told from their text

    shapes: ClassVar[tuple[Shape, ...]]  # of records that this task can read
    packages: ClassVar[dict[str, str]]  # that score it: module to the name that pip knows
    measures: ClassVar[tuple[str, ...]]  # in the order of the tables

    def __post_init__(self) -> None:
        require(self.num_samples > 0, "num_samples", self.num_samples, "must be at least 1", "use {key}=50")
        require(self.length is None or self.length > 1, "length", self.length, "must be at least 2", "use {key}=null")
        rule = "must be a code of two or three small letters"
        require(self.language is None or bool(re.fullmatch("[a-z]{2,3}", self.language)), "language", self.language, rule, "use {key}=zh")
        check_template(self.template)
        for module, package in self.packages.items():
            rule, remedy = f"needs {package}, which is not installed", f"install it: python -m pip install {package}"
            require(find_spec(module) is not None, "", self.word, rule, remedy)
        if not is_hub_id(self.path) and local_files(self.path):
            # Whatever is wrong with a file is told before anything else is loaded or trained.
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
        """How each figure is computed, as the tool that computes it says it."""

    @abstractmethod
    def reserved(self, record: Record, setting: Setting) -> int:
        """Tokens that an answer may take of the length."""

    @cached_property
    def records(self) -> list[Record]:
        with inside(f"evaluation.{self.word}"):
            records = [record if self.language is None else replace(record, language=self.language) for record in self._read()]
            require(bool(records), "path", self.path, "holds no records", "give {key} a file with records")
        return records

    def prompts(self, setting: Setting) -> list[tuple[Record, Prompt]]:
        """The samples. Raises `ConfigError` where the question of one leaves no room for any context."""
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
            rule = f"cannot hold sample {longest}: its question and an answer leave no room for a context"
            raise ConfigError(f"evaluation.{self.word}.length", length, rule, f"use {{key}}={needed[longest]} or more")
        return found

    def known(self, prompts: list[tuple[Record, Prompt]], setting: Setting) -> dict[int, str]:
        """Predictions of samples that were measured before, by their numbers."""
        records = {i: setting.samples.get(name_of(i, prompts)) for i in range(len(prompts))}
        return {i: record["prediction"] for i, record in records.items() if record is not None}

    def batches(self, prompts: list[tuple[Record, Prompt]], known: dict[int, str], more: list[Any] | None = None) -> Iterator[list[int]]:
        """The numbers of other samples whose prompts are equally long, and of which `more` is equal too; no more than are read at once."""
        kinds: dict[Any, list[int]] = {}
        for i, (_, prompt) in enumerate(prompts):
            if i in known:
                continue
            kinds.setdefault((len(prompt.tokens), None if more is None else more[i]), []).append(i)
        for (length, _), numbers in kinds.items():
            rows = max(1, BATCH_TOKENS // length)
            yield from (numbers[i : i + rows] for i in range(0, len(numbers), rows))

    def row(self, count: int, estimates: dict[str, tuple[float, float | None]]) -> dict[str, Any]:
        """What the results keep of a model: None for figures of which no sample could be read."""
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
    """Of a sample; ids of files may repeat."""
    return f"{number}/{prompts[number][0].id}"


def texts_of(prompts: list[tuple[Record, Prompt]], numbers: list[int]) -> np.ndarray:
    import numpy as np

    return np.stack([prompts[i][1].tokens for i in numbers])
