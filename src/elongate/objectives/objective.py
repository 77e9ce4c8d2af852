"""What is learned: an objective turns sequences into inputs, targets and weights; every loss is Σ w·CE / Σ w."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Bool, Float, Int
    from torch import Tensor, device

    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.reading import Reading


@dataclass(frozen=True)
class Example:
    """A batch as the network reads it. A target counts where `scored`; `positions` restart with each document, or are None."""

    inputs: Int[Tensor, "batch length"]
    targets: Int[Tensor, "batch length"]
    scored: Bool[Tensor, "batch length"]
    positions: Int[Tensor, "batch text"] | None  # of the inputs; where there is a context, of it and of all inputs but the first
    weights: Float[Tensor, "batch length"] | None = None  # of the targets, at least 0; None: 1
    context: Int[Tensor, "batch context"] | None = None  # what an autoencoder encodes
    share: float = 1.0  # of the loss of a step; those of all its examples add up to 1
    rows_together: int = 1  # rows that must not be parted
    agreement: float = 0.0  # weight, beside those of the targets, of the distance between the two rows of a pair (agreement.py)

    @property
    def length(self) -> int:
        """Tokens of a sequence, those that are encoded included."""
        return self.inputs.shape[1] + (0 if self.context is None else self.context.shape[1])

    @property
    def weight(self) -> float:
        """The sum of the weights of all targets."""
        return float(self.scored.sum() if self.weights is None else self.weights[self.scored].double().sum())

    def parts(self, rows: int) -> Iterator[Example]:
        """The same batch, `rows` sequences at a time."""
        rows = max(1, rows // self.rows_together) * self.rows_together
        for i in range(0, len(self.inputs), rows):
            yield self._each(operator.itemgetter(slice(i, i + rows)))

    def to(self, device: device) -> Example:
        return self._each(lambda tensor: tensor.to(device))

    def tokens(self, chunk: slice) -> Example:
        """Some tokens of all rows; positions stay those of the whole sequence."""
        weights = None if self.weights is None else self.weights[:, chunk]
        return replace(self, inputs=self.inputs[:, chunk], targets=self.targets[:, chunk], scored=self.scored[:, chunk], weights=weights)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Example:
        import torch

        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)})


class Objective(ABC):
    word: ClassVar[str]
    needs: ClassVar[frozenset[str]]  # what a model must have to learn it
    masks: ClassVar[bool] = False  # the tokenizer must have a token for what is hidden
    rows_meet: ClassVar[bool] = False  # in the loss: whole rows must be there at once, and chunks of them are not enough

    def on(self, has: frozenset[str], original_length: int) -> Objective:
        """What it is for such a model, with all that depends on the model filled in; asked before anything else but `check`."""
        return self

    @property
    @abstractmethod
    def reading(self) -> Reading:
        """How a model that learned this is measured."""

    @abstractmethod
    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        """The same for the same batch: an objective that draws at random draws from the batch's own tokens."""

    def check(self, has: frozenset[str], model: str) -> None:
        """Raises `ConfigError` where the model cannot learn this."""
        if missing := self.needs - has:
            rule = f"needs a model that {_ABLE[min(missing)]}, which model={model} does not"
            raise ConfigError("objective", self.word, rule, f"use {{key}}={usual_objective(has)}")

    def check_length(self, length: int, original_length: int) -> None:  # noqa: B027  # most fit every length
        """Raises `ConfigError` where sequences of `length` tokens cannot be learned from."""

    def check_blocks(self, length: int, original_length: int, block_length: int) -> None:  # noqa: B027  # most encode nothing
        """Raises `ConfigError` where what is encoded of a sequence of `length` tokens is no whole number of blocks."""


def usual_objective(has: frozenset[str]) -> str:
    """The word of the objective that such a model is made for."""
    return next(word for able, word in _USUAL.items() if able in has)


_ABLE = {"causal": "reads from left to right", "masked": "fills in what is masked", "autoencoder": "encodes and decodes"}
_USUAL = {"causal": "causal", "autoencoder": "continuation", "masked": "masked"}
