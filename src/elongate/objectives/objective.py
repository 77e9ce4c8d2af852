"""What is learned: an objective turns sequences into inputs, targets and weights; every loss is Σ w·CE / Σ w.

A teacher replaces CE by a lesson (lesson.py).
"""

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
    from elongate.objectives.lesson import Lesson
    from elongate.objectives.teacher import Teacher, TeacherSource
    from elongate.scoring.scorer import Scorer


@dataclass(frozen=True)
class Example:
    """A batch as the network reads it. A target counts where `scored`."""

    inputs: Int[Tensor, "batch length"]
    targets: Int[Tensor, "batch length"]
    scored: Bool[Tensor, "batch length"]
    # They restart with each document. With a context: positions of the context and of all inputs but the first.
    positions: Int[Tensor, "batch text"] | None
    weights: Float[Tensor, "batch length"] | None = None  # of the targets, at least 0; None: 1
    context: Int[Tensor, "batch context"] | None = None  # what an autoencoder encodes
    share: float = 1.0  # of the loss of a step; the shares of a step's examples add up to 1, besides the weight of a lesson
    rows_together: int = 1  # consecutive rows that must stay in one part
    agreement: float = 0.0  # weight of the distance between the two rows of a pair (agreement.py)
    lesson: Lesson | None = None  # what replaces the cross-entropy of the targets that are `taught`
    teacher_states: Float[Tensor, "batch known teacher_dim"] | None = None  # of the first tokens, at least those that are taught
    taught: Bool[Tensor, "batch length"] | None = None

    @property
    def length(self) -> int:
        """Return the tokens of a sequence, including those that are encoded."""
        return self.inputs.shape[1] + (0 if self.context is None else self.context.shape[1])

    @property
    def weight(self) -> float:
        """Return the sum of the weights of all targets."""
        return float(self.scored.sum() if self.weights is None else self.weights[self.scored].double().sum())

    def parts(self, rows: int) -> Iterator[Example]:
        """Yield the same batch, `rows` sequences at a time."""
        rows = max(1, rows // self.rows_together) * self.rows_together
        for i in range(0, len(self.inputs), rows):
            yield self._map(operator.itemgetter(slice(i, i + rows)))

    def to(self, device: device) -> Example:
        """Return the same batch on a device. A GPU copies it from pinned memory, without waiting for what it computes."""

        def copied(tensor: Tensor) -> Tensor:
            pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
            return pinned.to(device, non_blocking=True)

        return self._map(copied)

    def tokens(self, chunk: slice) -> Example:
        """Return some tokens of all rows; positions stay those of the whole sequence."""
        inputs, targets, scored = (x[:, chunk] for x in (self.inputs, self.targets, self.scored))
        weights, states, taught = (None if x is None else x[:, chunk] for x in (self.weights, self.teacher_states, self.taught))
        changed = replace(self, inputs=inputs, targets=targets, scored=scored)
        return replace(changed, weights=weights, teacher_states=states, taught=taught)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Example:
        import torch

        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **changed)


class ObjectiveChoice(ABC):
    """What `objective=…` selects. `bind` turns it into the objective of a given model."""

    word: ClassVar[str]
    needs: ClassVar[frozenset[str]]  # what a model must have to learn it
    masks: ClassVar[bool] = False  # the tokenizer must have a mask token
    rows_meet: ClassVar[bool] = False  # the loss compares whole rows, so rows cannot be split into chunks

    @abstractmethod
    def bind(self, has: frozenset[str], original_length: int) -> Objective:
        """Return the objective with model-dependent defaults filled in. Call after `check`."""

    @property
    @abstractmethod
    def scorer(self) -> Scorer:
        """Return how a model that learned this is scored."""

    @property
    def teacher_source(self) -> TeacherSource | None:
        """Return the source of the teacher; None: no teacher."""
        return None

    def check(self, has: frozenset[str], model: str) -> None:
        """Raises `ConfigError` if the model cannot learn this."""
        if missing := self.needs - has:
            rule = f"needs a model that {_ABLE[min(missing)]}, which model={model} does not"
            raise ConfigError("objective", self.word, rule, f"use {{key}}={usual_objective(has)}")

    def check_length(self, length: int, original_length: int) -> None:  # noqa: B027  # most fit every length
        """Raises `ConfigError` if sequences of `length` tokens cannot be learned from."""

    def check_batch(self, batch_tokens: int, length: int) -> None:  # noqa: B027  # most need one sequence
        """Raises `ConfigError` if `batch_tokens` hold too few sequences of `length` tokens."""

    def check_blocks(  # noqa: B027  # most objectives encode nothing
        self, length: int, original_length: int, block_length: int
    ) -> None:
        """Raises `ConfigError` if the encoded part of a sequence of `length` tokens is not whole blocks."""


class Objective(ObjectiveChoice):
    """An objective of a given model."""

    plan_is_exact: ClassVar[bool] = False  # a step reads every token once and scores it, as `plan=true` assumes
    runs_model: ClassVar[bool] = False  # `examples` runs the model; others are built in a thread while it is trained

    def bind(self, has: frozenset[str], original_length: int) -> Objective:
        return self

    @property
    def base(self) -> Objective:
        """Return what a base learns before the extension learns this."""
        return self

    def opened(self, teacher: Teacher) -> Objective:
        """Return the objective with its teacher. Call once, before the first batch, if there is a `teacher_source`."""
        return self

    def close(self) -> None:  # most have no teacher
        """Free the memory of the teacher. Call after the last batch."""

    @abstractmethod
    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        """Return what is learned from a batch: the same for the same batch.

        Randomness depends only on the tokens of the batch (scoring/draws.py). Unless `runs_model`, only sizes and tokens
        of the model may be read.
        """


def usual_objective(has: frozenset[str]) -> str:
    """Return the word of the objective that such a model usually learns."""
    return next(word for able, word in _USUAL.items() if able in has)


_ABLE = {
    "causal": "reads from left to right",
    "masked": "fills in what is masked",
    "autoencoder": "encodes and decodes",
}
_USUAL = {"causal": "causal", "autoencoder": "continuation", "masked": "masked"}
