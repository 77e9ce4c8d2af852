"""What a student learns from the states of its teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from elongate.models.gradient_sink import GradientSink
from elongate.models.head import Head
from elongate.models.language_model import LanguageModel
from elongate.objectives.divergence import summed_distillation
from elongate.objectives.teacher import Divergence


class Lesson(ABC):
    """A loss that compares some tokens of a student with the same tokens of its teacher."""

    @abstractmethod
    def summed_loss(
        self,
        model: LanguageModel,
        hidden: Float[Tensor, "tokens dim"],
        teacher_states: Float[Tensor, "tokens teacher_dim"],
        targets: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None,
        sink: GradientSink | None,
    ) -> Float[Tensor, ""]:
        """Return Σ w·loss. `sink`: see `summed_cross_entropy`."""


@dataclass(frozen=True)
class Prediction(Lesson):
    """The distribution of the next token: α·CE + (1 − α)·τ²·D."""

    head: Head  # of the teacher
    divergence: Divergence

    def summed_loss(
        self,
        model: LanguageModel,
        hidden: Float[Tensor, "tokens dim"],
        teacher_states: Float[Tensor, "tokens teacher_dim"],
        targets: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None,
        sink: GradientSink | None,
    ) -> Float[Tensor, ""]:
        heads = (model.head_inputs(hidden), model.head, teacher_states, self.head)
        return summed_distillation(*heads, targets, self.divergence, weights, model.precision, sink)


@dataclass(frozen=True)
class Direction(Lesson):
    """The direction of the last hidden states: 1 − cos. Both models have the same width."""

    def summed_loss(
        self,
        model: LanguageModel,
        hidden: Float[Tensor, "tokens dim"],
        teacher_states: Float[Tensor, "tokens teacher_dim"],
        targets: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None,
        sink: GradientSink | None,
    ) -> Float[Tensor, ""]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        distances = 1 - F.cosine_similarity(hidden.to(wide), teacher_states.to(wide), dim=-1)
        return distances.sum() if weights is None else distances @ weights.to(wide)
