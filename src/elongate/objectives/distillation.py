"""Distillation: next-token prediction, and the predictions of a teacher on the same text.

The loss of a token is α·CE + (1 − α)·τ²·D, with D the forward KL divergence KL(teacher ‖ student) (Hinton et al. 2015,
arXiv:1503.02531), the reverse one (Gu et al. 2023, arXiv:2306.08543) or the Jensen-Shannon divergence with equal weights
(Agarwal et al. 2023, arXiv:2306.13649), between softmax(z / τ) of both. The factor τ² keeps the size of the gradient as τ grows.

Both heads are applied to a few tokens at a time, so the logits of a whole sequence never exist. A teacher with another
tokenizer is refused. If the tables of the same tokenizer are padded to different sizes, D compares the words that both have.

Tokens at positions that the teacher was not trained on are learned from the text alone, by CE with weight 1. With sampled
positions, the teacher reads plain ones. A base is trained by next-token prediction, the same one as with `objective=causal`.

Fails if the teacher is not better than the student on these texts, and costs the teacher's forward pass in every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, cast, get_args

from elongate.errors import require
from elongate.objectives.causal import Causal, next_token
from elongate.objectives.objective import Example, Objective
from elongate.objectives.teacher import Divergence, Kind, Teacher, TeacherSource
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Distillation(Objective):
    """Next-token prediction with a teacher."""

    teacher: TeacherSource = field(default_factory=TeacherSource)
    divergence: str = "forward_kl"  # forward_kl, reverse_kl or jensen_shannon
    alpha: float = 0.5  # share of the cross-entropy with the text, in [0, 1); the rest is the divergence's
    temperature: float = 1.0  # τ, by which the logits of both are divided, above 0

    word: ClassVar[str] = "distillation"
    needs: ClassVar[frozenset[str]] = frozenset({"causal"})

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        known = self.divergence in kinds
        require(known, "divergence", self.divergence, f"must be one of {', '.join(kinds)}", "use {key}=forward_kl")
        remedy = "use {key}=0.5, or objective=causal without a teacher"
        require(0 <= self.alpha < 1, "alpha", self.alpha, "must be at least 0 and below 1", remedy)
        require(self.temperature > 0, "temperature", self.temperature, "must be above 0", "use {key}=1")

    @property
    def scorer(self) -> Scorer:
        return LeftToRight()

    @property
    def base(self) -> Objective:
        return Causal()

    @property
    def teacher_source(self) -> TeacherSource:
        return self.teacher

    def opened(self, teacher: Teacher) -> Objective:
        return Distilled(**vars(self), opened_teacher=teacher)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        raise AssertionError("`opened` returns the objective that has its teacher")


@dataclass(frozen=True, kw_only=True)
class Distilled(Distillation):
    """The same with its teacher opened."""

    opened_teacher: Teacher

    def close(self) -> None:
        self.opened_teacher.close()

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        from elongate.objectives.lesson import Prediction

        teacher, example = self.opened_teacher, next_token(batch).to(model.device)
        states, known = teacher.read(example.inputs, example.positions)
        lesson = Prediction(teacher.model.head, Divergence(cast(Kind, self.divergence), self.alpha, self.temperature))
        return [replace(example, lesson=lesson, teacher_states=states, taught=known)]
