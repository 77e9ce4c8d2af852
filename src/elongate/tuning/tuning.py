"""Which weights of the network the extension trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


class Tuning(ABC):
    """Changes the network in place before the extension and restores plain modules after it."""

    word: ClassVar[str]
    trains_network: ClassVar[bool] = False  # its own weights, and adds no others

    @abstractmethod
    def apply(self, model: LanguageModel, seed: int) -> None:
        """Freeze the weights that are not trained and add those that are; the network's output stays the same.

        Raises `ConfigError`.
        """

    @abstractmethod
    def merge(self, model: LanguageModel) -> None:
        """Turn the network back into plain modules that contain what was learned."""

    def adapters(self, model: LanguageModel) -> dict[str, Any]:
        """Return what was added to the network, for results.json."""
        return {}
