"""How a long sequence fits the machine: forward and backward of one batch. The training loop never knows which one it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


class Memory(ABC):
    word: ClassVar[str]

    @abstractmethod
    def backward(self, model: LanguageModel, example: Example) -> float:
        """Adds the gradient of Σ w·CE / Σ w over the whole batch and returns that loss in nats per scored token."""
