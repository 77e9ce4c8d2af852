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
        self.check_model(model)
        return self

    def check_able(self, has: frozenset[str], model: str) -> None:  # noqa: B027  # most need nothing
        """Raises `ConfigError` where a model with these words, whatever its weights, cannot be trained this way."""

    def check_model(self, model: LanguageModel) -> None:  # noqa: B027  # most fit every model
        """Raises `ConfigError` where the model cannot be trained this way."""

    def helps(self, length: int) -> bool:
        """Whether the plan can save memory on sequences of `length` tokens."""
        return True

    @property
    @abstractmethod
    def tokens_at_once(self) -> int:
        """Tokens in one forward and backward pass, but for what a single sequence has above that."""

    def rows(self, length: int) -> int:
        """Sequences of `length` tokens in one forward and backward pass."""
        return max(1, self.tokens_at_once // length)

    @abstractmethod
    def backward(self, model: LanguageModel, example: Example) -> float:
        """Adds the gradient of share · Σ w·CE / Σ w over the whole batch and returns that loss, in nats per scored token.

        The sum above the line has one term more where the example has pairs of rows that should agree.
        """
