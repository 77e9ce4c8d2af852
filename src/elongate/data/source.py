"""Document sources: each yields documents and identifies their content by one hash."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from elongate.errors import ConfigError, require

PIECE = 1 << 18  # characters tokenized together; subword libraries need 130 bytes of memory per character
BREAK = re.compile(r"(?<=\S)\n(?=\S)")
PACKINGS = ("stream", "best_fit")
BLANK = re.compile(r"(?<=\S)(?=\s)")


@dataclass(frozen=True)
class Document:
    """A text with a name."""

    name: str  # its hash decides whether the document is held out for validation
    text: str


@dataclass(kw_only=True)
class Source(ABC):
    """A collection of documents in a fixed order. Documents without text are skipped."""

    validation_ratio: float = 0.1  # share of the documents that is held out for validation, above 0 and below 1
    isolate_documents: bool = False  # documents in a sequence do not see each other; each starts at position 0
    packing: str = "stream"  # stream cuts the text every `length` tokens; best_fit keeps short documents whole and isolated
    min_length: int = 0  # tokens; training documents with fewer are left out, at least 0
    max_length: int | None = None  # tokens; training documents with more are left out; null: no limit
    add_bos: Any = "auto"  # documents and measured texts begin with BOS: true, false, or auto, as the tokenizer does
    cache: str = "runs/cache"  # folder for tokens and trained tokenizers; between runs it may be deleted at any time

    def __post_init__(self) -> None:
        ratio = self.validation_ratio
        require(0 < ratio < 1, "validation_ratio", ratio, "must be above 0 and below 1", "use {key}=0.1")
        require(self.packing in PACKINGS, "packing", self.packing, f"must be one of {', '.join(PACKINGS)}", "use {key}=stream")
        require(self.min_length >= 0, "min_length", self.min_length, "must be at least 0", "use {key}=0")
        if self.max_length is not None:
            rule = f"must be at least 1 and not below min_length={self.min_length}"
            require(self.max_length >= max(1, self.min_length), "max_length", self.max_length, rule, "use {key}=null")
        is_known = isinstance(self.add_bos, bool) or self.add_bos == "auto"
        require(is_known, "add_bos", self.add_bos, "must be auto, true or false", "use {key}=auto")

    @property
    def parts(self) -> dict[str, Source]:
        """The sources that a mixture reads, by name; empty for all others."""
        return {}

    @property
    def part_shares(self) -> dict[str, float]:
        """The shares of the tokens of `parts`; they need not add up to 1."""
        return {}

    @property
    def isolates(self) -> bool:
        """Whether documents in a sequence do not see each other."""
        return self.isolate_documents or self.packing == "best_fit"

    @property
    def isolation(self) -> str:
        """The override that isolates documents, for messages."""
        part, one = next(((f"sources.{name}.", part) for name, part in self.parts.items() if part.isolates), ("", self))
        return f"data.{part}{'isolate_documents=true' if one.isolate_documents else 'packing=best_fit'}"

    @property
    def word(self) -> str:
        """The word that chooses this source."""
        return type(self).__module__.rpartition(".")[2]

    def check_amount(self, available: dict[str, int], needed: int, trained: int) -> None:  # noqa: B027  # sources without parts always repeat
        """Raises `ConfigError` if a part is too small.

        `available`: tokens of each part. `needed`: tokens of the longest sequence. `trained`: tokens of the whole training.
        """

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, in the same order every time."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that `documents` depends on. Equal content gives equal hashes on every machine."""

    def train_texts(self) -> Iterator[str]:
        """The text of the train split, in pieces: what a tokenizer may be trained on."""
        held_out = held_out_documents([document.name for document in self.documents()], self.validation_ratio)
        for document, is_held_out in zip(self.documents(), held_out, strict=True):
            if len(held_out) == 1:
                yield from pieces(document.text[: round(len(document.text) * (1 - self.validation_ratio))])
            elif not is_held_out:
                yield from pieces(document.text)


def held_out_documents(names: Sequence[str], ratio: float) -> np.ndarray:
    """A mask of the validation documents: the first `ratio` of all in the order of their names' hashes.

    At least one document is held out and at least one is not. A single document is never held out as a whole.
    """
    hashes = [hashlib.sha256(name.encode("utf-8", errors="surrogateescape")).digest() for name in names]
    by_hash = sorted(range(len(names)), key=hashes.__getitem__)
    held_out = np.zeros(len(names), dtype=bool)
    held_out[by_hash[: min(len(names) - 1, max(1, round(ratio * len(names))))]] = True
    return held_out


def pieces(text: str) -> Iterator[str]:
    """Splits a long text, which bounds the memory that training a tokenizer on it takes.

    After a line end between two characters that are not blank, if there is one within `PIECE` characters; a text without
    such line ends is split before a blank, or anywhere if it has none.
    """
    start = 0
    while len(text) - start > 2 * PIECE:
        least, most = start + PIECE, start + 2 * PIECE
        found = BREAK.search(text, least, most) or BLANK.search(text, least, most)
        stop = most if found is None else found.end()
        yield text[start:stop]
        start = stop
    if found := BREAK.search(text, start + PIECE):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def _another_field(field: str, record: dict[str, Any]) -> str:
    """A remedy: the field with a text whose name is nearest, or what to do with a record that has none."""
    texts = [name for name, value in record.items() if isinstance(value, str)]
    if nearest := get_close_matches(field, texts, n=1, cutoff=0.0):
        return f"use {{key}}={nearest[0]}"
    chats = [name for name, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if chats:
        return f'{chats[0]} contains a chat: write each as one text, such as that of its chat template, in records like {{"text": "…"}}'
    return 'write records like {"text": "…"}'


def text_of(record: Any, field: str, where: str) -> str:
    """The text of one record. Raises `ConfigError` with the place `where` and the nearest field that exists."""
    if not isinstance(record, dict):
        rule = f"{where} is a {type(record).__name__}, not an object with fields"
        raise ConfigError("field", field, rule, 'write records like {"text": "…"}')
    if field not in record:
        rule = f"{where} has no such field (it has: {', '.join(record) or 'none'})"
        raise ConfigError("field", field, rule, _another_field(field, record))
    text = record[field]
    if not isinstance(text, str):
        rule = f"{where} has a {type(text).__name__} in this field, not a text"
        raise ConfigError("field", field, rule, _another_field(field, record))
    # Half a surrogate pair, which JSON can spell, has no bytes in UTF-8.
    return text.encode("utf-8", errors="replace").decode("utf-8")
