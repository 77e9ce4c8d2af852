"""What a tokenizer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from elongate.data.source import Source


class Tokenizer(ABC):
    """Text to ids and back; `encode` adds no special tokens of its own."""

    vocab_size: int  # ids are below it
    end_of_document: int  # the id that closes every document
    mask: int | None = None  # the id that stands for what is hidden; None: there is none
    fingerprint: str  # equal for tokenizers that give equal ids

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Ids as int64."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text, without special tokens; bytes that are no UTF-8 become the replacement character."""

    @abstractmethod
    def with_mask(self) -> Tokenizer:
        """The same ids, with one more for what is hidden where there is none. Raises `ConfigError` where none can be added."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the files from which `transformers.AutoTokenizer` and `load_tokenizer` open the same tokenizer."""


class TokenizerConfig(Protocol):
    """What one chooses: a tokenizer that may have to be trained on the source first."""

    def fit(self, source: Source) -> Tokenizer: ...
