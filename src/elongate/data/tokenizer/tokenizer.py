"""The interface of tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from elongate.data.source import Source
from elongate.errors import inside


class Tokenizer(ABC):
    """Converts text to ids and back. `encode` adds no special tokens."""

    vocab_size: int  # one more than the largest id
    end_of_document: int  # the last id of every document
    mask: int | None = None  # the id that replaces hidden tokens; None: the tokenizer has none
    fingerprint: str  # equal for tokenizers that encode equally

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int64."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text without special tokens. Bytes that are not UTF-8 become the replacement character."""

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


def fit_tokenizer(config: TokenizerConfig, source: Source, needs_mask: bool) -> Tokenizer:
    """The tokenizer of a run, with a mask id if the objective hides tokens. Raises `ConfigError`."""
    with inside("tokenizer"):
        tokenizer = config.fit(source)
        return tokenizer.with_mask() if needs_mask else tokenizer
