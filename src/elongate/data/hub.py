"""Data sets of the Hugging Face hub, or a local folder of parquet, json, csv or text files, through `datasets`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate.data.files import digest, files_below
from elongate.data.source import Document, Source, text_of
from elongate.errors import ConfigError, require
from elongate.hub import hub_answers

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@dataclass(kw_only=True)
class Hub(Source):
    """One document a row; rows whose text is null or empty are passed over. Code from the hub is never run.

    A hub id is cached by its name and `revision`, not by its content, so that a second run needs no network: pin
    `revision` to a commit where the data set may change.
    """

    path: str
    """Hub id, as in allenai/c4, or a local folder."""
    name: str | None = None
    """Configuration of the data set, where it has several."""
    split: str = "train"
    """Split to read, slices included: train[:1%]."""
    field: str = "text"
    """Column that holds the text."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    streaming: bool = False
    """Read rows as they arrive, without downloading the whole data set first."""
    num_documents: int | None = None
    """Number of rows to read from the front; all if null. A stream needs one, because what is cached must end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.num_documents
        require(limit is None or limit > 0, "num_documents", limit, "must be above 0", "try {key}=10000")
        rule = "a stream needs a number of documents"
        require(limit is not None or not self.streaming, "num_documents", limit, rule, "try {key}=10000")
        rule = "a local folder has no revisions"
        require(self.revision is None or not self._is_local(), "revision", self.revision, rule, "drop {key}")

    def documents(self) -> Iterator[Document]:
        for index, row in enumerate(islice(self.rows(), self.num_documents)):
            if row.get(self.field, "") is not None and (text := text_of(row, self.field, f"row {index}")):
                yield Document(str(index), text)

    def fingerprint(self) -> str:
        settings = (self.name, self.split, self.field, self.revision, self.num_documents)
        if self._is_local():
            return digest(files_below(Path(self.path).expanduser()), "hub", *settings)
        return hashlib.sha256(json.dumps(["hub", self.path, *settings]).encode()).hexdigest()

    def _is_local(self) -> bool:
        return Path(self.path).expanduser().is_dir()

    def rows(self) -> Iterator[dict[str, Any]]:
        with self._told_in_a_line():
            yield from self._load()

    def labels(self) -> dict[str, list[str]]:
        """The names of the classes of each column that holds their numbers."""
        from datasets import ClassLabel

        with self._told_in_a_line():
            features = self._load().features or {}
        return {column: kind.names for column, kind in features.items() if isinstance(kind, ClassLabel)}

    @contextmanager
    def _told_in_a_line(self) -> Iterator[None]:
        """Every fault of the library."""
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (DatasetsError, OSError, ValueError) as error:
            # "An error occurred while generating the dataset" says nothing; what caused it does.
            reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
            remedy = "check the id, name, split and revision at huggingface.co/datasets"
            if self._is_local():
                remedy = "check the files, name and split"
            raise ConfigError("path", self.path, f"cannot be loaded ({reason})", remedy) from error

    def _load(self) -> Dataset | IterableDataset:
        import datasets

        path = str(Path(self.path).expanduser()) if self._is_local() else self.path
        if not self._is_local():
            looks_local = path.count("/") > 1 or path.startswith((".", "/", "~"))
            require(not looks_local, "path", path, "no such folder", "give {key} a folder or a hub id (owner/name)")
            rule = "no such folder here, and the hub cannot be reached to look there"
            remedy = "connect to the network, or set HF_HUB_OFFLINE=1 to use what was downloaded before"
            require(hub_answers(), "path", path, rule, remedy)
        options = {"split": self.split, "revision": self.revision, "streaming": self.streaming}
        rows: Dataset | IterableDataset = datasets.load_dataset(path, self.name, **options)
        return rows
