"""Who sees whom? An attention names the transformers implementation that every layer of the model uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar


class Attention(ABC):
    word: ClassVar[str]

    @property
    @abstractmethod
    def implementation(self) -> str:
        """The key in transformers' `AttentionInterface`."""
