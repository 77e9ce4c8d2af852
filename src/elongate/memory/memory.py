"""What `memory=` selects: a plan, or the choice of one. The training loop does not know which plan it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


class Memory(ABC):
    """The setting in the configuration. `prepare` turns it into the plan that computes the batches."""

    word: ClassVar[str]
    is_exact: bool = True  # false: the gradient is an approximation
    can_compile: ClassVar[bool] = True  # layers that torch compiled stay compiled
    splits_rows: ClassVar[bool] = False  # a sequence is computed in chunks
    has_attention_weights: ClassVar[bool] = False  # the whole matrix of attention weights exists if a model asks for it

    @abstractmethod
    def prepare(self, model: LanguageModel, length: int) -> Plan:
        """Return the plan that computes the batches. Call once, before the first batch.

        `length`: tokens of the longest sequences. Raises `ConfigError` if the model cannot be trained this way.
        """

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that the setting names; none if the planner has to choose."""
        return ()

    def check_able(self, has: frozenset[str], model: str) -> None:  # noqa: B027  # most need nothing
        """Raise `ConfigError` if models with these capabilities cannot be trained this way."""


class Plan(Memory):
    """Runs forward and backward of one batch."""

    def prepare(self, model: LanguageModel, length: int) -> Self:
        self.check_model(model)
        self.check_length(model, length)
        return self

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self,)

    def check_model(self, model: LanguageModel) -> None:  # most fit every model
        """Raise `ConfigError` if the model cannot be trained this way."""

    def check_length(self, model: LanguageModel, length: int) -> None:
        """Raise `ConfigError` if sequences of `length` tokens cannot be trained this way on this machine."""

    def variants(self) -> Iterator[Plan]:
        """Yield the settings that the planner compares, the fastest and largest first."""
        yield self

    def sizes(self, device: str) -> Iterator[Plan]:
        """Yield the plan with the sizes of its pieces that the planner compares on a type of device."""
        yield self

    def helps(self, length: int) -> bool:
        """Whether the plan can save memory on sequences of `length` tokens."""
        return True

    @property
    def is_last_resort(self) -> bool:
        """Whether the plan is only worth its time if no other one fits."""
        return False

    @property
    @abstractmethod
    def pass_tokens(self) -> int:
        """Tokens in one forward and backward pass; a longer sequence is still computed as a whole."""

    @property
    def fixed_tokens(self) -> int:
        """Tokens of the largest piece whose size does not grow with the length; 0 if there is none."""
        return 0

    def rows(self, length: int) -> int:
        """Sequences of `length` tokens in one forward and backward pass."""
        return max(1, self.pass_tokens // length)

    @property
    def overrides(self) -> str:
        """The words of the command line that select the plan; default settings are left out."""
        settings: list[Any] = list(fields(self))  # type: ignore[arg-type]  # every plan is a dataclass
        changed = {field.name: getattr(self, field.name) for field in settings if getattr(self, field.name) != field.default}
        return " ".join([f"memory={self.word}", *(f"memory.{key}={str(value).lower()}" for key, value in changed.items())])

    @abstractmethod
    def backward(self, model: LanguageModel, example: Example) -> float:
        """Add the gradient of share · Σ w·CE / Σ w over the whole batch and return that loss, in nats per scored token.

        With `agreement > 0` the numerator has one more term: the distance between paired rows.
        """


def size_on(device: str | None, cpu: int, gpu: int) -> int:
    """Return the tokens of a piece by the type of the device. None: a GPU, if there is one.

    A GPU needs large pieces to be busy. A CPU is as fast or faster where a piece stays in its cache.
    """
    import torch

    on_gpu = torch.cuda.is_available() if device is None else device == "cuda"
    return gpu if on_gpu else cpu


def sum_of(losses: list[Tensor]) -> float:
    """Return the sum in float64. Read once per batch: the device would wait for Python after each of them."""
    return sum(loss.double() for loss in losses).item()  # type: ignore[union-attr]  # there is at least one
