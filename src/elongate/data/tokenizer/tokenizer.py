"""The interface of tokenizers."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from elongate.data.source import Source
from elongate.errors import ConfigError, inside


class Tokenizer(ABC):
    """Converts text to ids and back. `encode` adds no special tokens; `begin` adds those that begin a text."""

    vocab_size: int  # one more than the largest id
    end_of_document: int  # the last id of every document
    mask: int | None = None  # the id that replaces hidden tokens; None: the tokenizer has none
    beginning: tuple[int, ...] = ()  # ids that begin every document and every text that is measured, usually BOS
    bos: int | None = None  # the id of the token named bos_token, whether or not texts begin with it
    fingerprint: str  # equal for tokenizers that encode equally

    @property
    @abstractmethod
    def words(self) -> dict[int, str]:
        """Each token as the tokenizer's files write it, by its id."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int64."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def encode_blocks(self, text: str) -> Iterator[np.ndarray]:
        """The ids of a long text in blocks, which together are those of `encode`."""
        yield self.encode(text)

    @abstractmethod
    def spelled(self, token: int) -> str:
        """The text of one token, special tokens included."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text without special tokens. Bytes that are not UTF-8 become the replacement character."""

    def begin(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a whole text: `beginning`, then the ids of its words."""
        return np.concatenate([np.array(self.beginning, dtype=np.int64), ids])

    def with_bos(self, add: bool | str) -> Self:
        """This tokenizer with or without BOS at the beginning of texts; "auto": unchanged. Raises `ConfigError`."""
        if add == "auto" or add == bool(self.beginning):
            return self
        if add and self.bos is None:
            raise ConfigError("data.add_bos", add, "the tokenizer has no bos_token", "use {key}=auto")
        changed = copy.copy(self)
        changed.beginning = (self.bos,) if add and self.bos is not None else ()
        return changed

    @abstractmethod
    def num_bytes(self, ids: np.ndarray) -> int:
        """UTF-8 bytes of the text. Of a character that the ids cut, only the bytes that they contain count."""

    @abstractmethod
    def with_mask(self) -> Tokenizer:
        """Returns this tokenizer with a mask id, added if it has none. Raises `ConfigError` if it cannot be added."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes files that `transformers.AutoTokenizer` and `load_tokenizer` open as the same tokenizer."""


class TokenizerConfig(Protocol):
    """What `tokenizer=` chooses."""

    def fit(self, source: Source) -> Tokenizer:
        """The tokenizer, trained on the source if it needs training."""


def planned_vocab_size(config: TokenizerConfig, source: Source, needs_mask: bool) -> int:
    """The size of the vocabulary, at most: a tokenizer that is trained to a size is not trained for a plan. Raises `ConfigError`."""
    if (size := getattr(config, "vocab_size", None)) is not None:
        return int(size) + needs_mask
    return fit_tokenizer(config, source, needs_mask).vocab_size


def fit_tokenizer(config: TokenizerConfig, source: Source, needs_mask: bool) -> Tokenizer:
    """The tokenizer of a run, with BOS as the data asks and a mask id if the objective hides tokens. Raises `ConfigError`."""
    with inside("tokenizer"):
        tokenizer = config.fit(source)
        tokenizer = tokenizer.with_mask() if needs_mask else tokenizer
    return tokenizer.with_bos(source.add_bos)
