"""Memory plans: how a long sequence fits the machine.

A plan runs forward and backward of one batch; the loop does not know which plan it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


class Memory(ABC):
    word: ClassVar[str]
    is_exact: bool = True  # false: the gradient is an approximation

    def prepare(self, model: LanguageModel, length: int) -> Memory:
        """Returns the plan that computes the batches. Call once, before the first batch. `length`: tokens of the longest sequences.

        Raises `ConfigError` if the model cannot be trained this way.
        """
        self.check_model(model)
        return self

    def check_able(self, has: frozenset[str], model: str) -> None:  # noqa: B027  # most need nothing
        """Raises `ConfigError` if models with these capabilities cannot be trained this way."""

    def check_model(self, model: LanguageModel) -> None:  # noqa: B027  # most fit every model
        """Raises `ConfigError` if the model cannot be trained this way."""

    def helps(self, length: int) -> bool:
        """Whether the plan can save memory on sequences of `length` tokens."""
        return True

    @property
    @abstractmethod
    def tokens_at_once(self) -> int:
        """Tokens in one forward and backward pass; a longer sequence is still computed as a whole."""

    def rows(self, length: int) -> int:
        """Sequences of `length` tokens in one forward and backward pass."""
        return max(1, self.tokens_at_once // length)

    @abstractmethod
    def backward(self, model: LanguageModel, example: Example) -> float:
        """Adds the gradient of share · Σ w·CE / Σ w over the whole batch and returns that loss, in nats per scored token.

        With `agreement > 0` the numerator has one more term: the distance between paired rows.
        """
