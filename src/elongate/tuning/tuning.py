"""What of the network is trained in the extension. A tuning changes it in place before, and leaves plain modules after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


class Tuning(ABC):
    word: ClassVar[str]

    @abstractmethod
    def apply(self, model: LanguageModel, seed: int) -> None:
        """Freezes what is not trained and adds what is; the network computes what it did. Raises `ConfigError`."""

    @abstractmethod
    def merge(self, model: LanguageModel) -> None:
        """Turns the network back into the plain modules that it was made of, with what was learned in their weights."""

    def adapters(self, model: LanguageModel) -> dict[str, Any]:
        """What was added, read from the network, for the results."""
        return {}
