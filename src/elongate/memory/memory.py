"""How a long sequence fits the machine: forward and backward of one batch. The training loop never knows which one it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


class Memory(ABC):
    word: ClassVar[str]
    is_exact: bool = True  # the gradient is that of the whole batch

    def prepare(self, model: LanguageModel, length: int) -> Memory:
        """What computes the batches: called once, before the first. `length`: of the longest sequences, in tokens.

        Raises `ConfigError` where the model cannot be trained this way.
        """
        return self

    def check(self, length: int) -> None:  # noqa: B027  # most fit every length
        """Raises `ConfigError` where sequences of `length` tokens cannot be computed this way."""

    @abstractmethod
    def backward(self, model: LanguageModel, example: Example) -> float:
        """Adds the gradient of Σ w·CE / Σ w over the whole batch and returns that loss in nats per scored token."""
