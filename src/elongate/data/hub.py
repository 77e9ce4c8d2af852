"""Datasets of the Hugging Face hub, or a local folder of parquet, json, csv or text files, read by `datasets`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate.data.files import File, digest, files_below
from elongate.data.hub_files import check_nesting, damaged_file
from elongate.data.source import Document, Source, text_of
from elongate.errors import ConfigError, require
from elongate.foreign import foreign, reason
from elongate.hub import hub_answers

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@dataclass(kw_only=True)
class Hub(Source):
    """One document per row. Rows whose text is null or empty are skipped. Code from the hub is never run.

    A hub id is cached by its name and `revision`, not by its content, so a second run needs no network.
    Pin `revision` to a commit if the dataset may change.
    """

    path: str  # hub id, as in allenai/c4, or a local folder
    name: str | None = None  # configuration of the dataset, if it has several
    split: str = "train"  # split to read, slices included: train[:1%]
    field: str = "text"  # column with the text
    revision: str | None = None  # branch, tag or commit on the hub
    streaming: bool = False  # read rows as they arrive, without downloading the whole dataset first
    num_documents: int | None = None  # rows to read from the front; null: all; required for a stream

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.num_documents
        require(limit is None or limit > 0, "num_documents", limit, "must be above 0", "use {key}=10000")
        rule = "a stream needs a number of documents"
        require(limit is not None or not self.streaming, "num_documents", limit, rule, "use {key}=10000")
        rule = "a local folder has no revisions"
        require(self.revision is None or not self._is_local(), "revision", self.revision, rule, "leave {key} out")

    def documents(self) -> Iterator[Document]:
        for index, row in enumerate(islice(self.rows(), self.num_documents)):
            if row.get(self.field, "") is not None and (text := text_of(row, self.field, f"row {index}")):
                yield Document(str(index), text)

    def fingerprint(self) -> str:
        settings = (self.name, self.split, self.field, self.revision, self.num_documents)
        if self._is_local():
            return digest(self._files(), "hub", *settings)
        return hashlib.sha256(json.dumps(["hub", self.path, *settings]).encode()).hexdigest()

    def _is_local(self) -> bool:
        return Path(self.path).expanduser().is_dir()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the split as they are. Raises `ConfigError` if the dataset cannot be loaded."""
        with self._one_line_errors():
            yield from self._load()

    def labels(self) -> dict[str, list[str]]:
        """The class names of each column that stores class numbers."""
        from datasets import ClassLabel

        with self._one_line_errors():
            features = self._load().features or {}
        return {column: kind.names for column, kind in features.items() if isinstance(kind, ClassLabel)}

    def _one_line_errors(self) -> AbstractContextManager[None]:
        """Turns every fault of the library into one line."""
        return foreign(self._refusal, _cause)

    def _refusal(self, why: str) -> ConfigError:
        if not self._is_local():
            return ConfigError(
                "path", self.path, f"cannot be loaded ({why})", "check the id, name, split and revision at huggingface.co/datasets"
            )
        file = damaged_file(self._files())
        return ConfigError("path", file or self.path, f"cannot be loaded ({why})", "check the files, name and split")

    def _files(self) -> list[File]:
        return files_below(Path(self.path).expanduser())

    def _load(self) -> Dataset | IterableDataset:
        import datasets

        path = str(Path(self.path).expanduser()) if self._is_local() else self.path
        # It logs a fault before it raises it.
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        if self._is_local():
            files = self._files()
            require(
                any(file.path.stat().st_size for file in files), "path", path, "contains no file with text", "give {key} another folder"
            )
            check_nesting(files)
        else:
            looks_local = path.count("/") > 1 or path.startswith((".", "/", "~"))
            require(not looks_local, "path", path, "no such folder", "give {key} a folder or a hub id (owner/name)")
            rule = "no such folder here, and the hub cannot be reached to look there"
            remedy = "connect to the network, or set HF_HUB_OFFLINE=1 to use earlier downloads"
            require(hub_answers(), "path", path, rule, remedy)
        options = {"split": self.split, "revision": self.revision, "streaming": self.streaming}
        rows: Dataset | IterableDataset = datasets.load_dataset(path, self.name, **options)
        return rows


def _cause(fault: BaseException) -> str:
    """The message "An error occurred while generating the dataset" does not help; its cause does."""
    from datasets.exceptions import DatasetGenerationError

    return reason(fault.__cause__ if isinstance(fault, DatasetGenerationError) and fault.__cause__ else fault)
