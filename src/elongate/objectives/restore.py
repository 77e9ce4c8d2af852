"""Next-token prediction on long texts, while the states of short texts stay those of the original model (LongReD).

Dong et al. 2025, arXiv:2502.07365: extending a model costs it some of its skill on short texts. Here a part of the sequences
of every step is cut into texts of the original length. On them the loss is `weight` times the mean of 1 − cos between the last
hidden states of the model and of the model before its extension, which reads them at its own positions. On the other sequences
it is the mean cross-entropy. The logged loss is the sum of both.

Departures from the paper: the last layer only, which was better than several in our trials, and no third loss on texts with
skipped positions. The step has as many tokens as every other, so the long texts are fewer. A base is trained by next-token
prediction, the same one as with `objective=causal`.

Fails if the weight is so large that the model cannot adapt to its new positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from elongate.data.sequences import Batch
from elongate.errors import ConfigError, require
from elongate.objectives.causal import Causal, next_token
from elongate.objectives.longce import from_first_token
from elongate.objectives.objective import Example, Objective
from elongate.objectives.teacher import Teacher, TeacherSource
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Restore(Objective):
    """Next-token prediction that keeps the states of short texts."""

    weight: float = 5.0  # of the mean of 1 − cos on short texts, above 0
    short_ratio: float = 0.25  # share of a step's sequences that is cut into short texts, in (0, 1); at least one sequence

    word: ClassVar[str] = "restore"
    needs: ClassVar[frozenset[str]] = frozenset({"causal"})

    def __post_init__(self) -> None:
        require(self.weight > 0, "weight", self.weight, "must be above 0", "use {key}=5, or objective=causal")
        require(0 < self.short_ratio < 1, "short_ratio", self.short_ratio, "must be in (0, 1)", "use {key}=0.25, or objective=causal")

    @property
    def scorer(self) -> Scorer:
        return LeftToRight()

    @property
    def base(self) -> Objective:
        return Causal()

    @property
    def teacher_source(self) -> TeacherSource:
        return TeacherSource()

    def check_batch(self, batch_tokens: int, length: int) -> None:
        if batch_tokens < 2 * length:
            rule = f"is less than two sequences of {length} tokens, one of which is cut into short texts"
            raise ConfigError("batch_tokens", batch_tokens, rule, f"use {{key}}={2 * length}, or objective=causal")

    def opened(self, teacher: Teacher) -> Objective:
        return Restored(**vars(self), opened_teacher=teacher)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        raise AssertionError("`opened` returns the objective that has its teacher")


@dataclass(frozen=True, kw_only=True)
class Restored(Restore):
    """The same with the original model opened."""

    opened_teacher: Teacher

    def close(self) -> None:
        self.opened_teacher.close()

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        from elongate.objectives.lesson import Direction

        rows = len(batch.tokens)
        # Sequences come in random order, so the last ones are any.
        first = rows - min(rows - 1, max(1, round(self.short_ratio * rows)))
        short = _short_texts(_rows(batch, slice(first, None)), self.opened_teacher.length).to(model.device)
        states, known = self.opened_teacher.read(short.inputs, short.positions)
        lesson = replace(short, share=self.weight, lesson=Direction(), teacher_states=states, taught=known)
        return [next_token(_rows(batch, slice(first))), lesson]


def _rows(batch: Batch, rows: slice) -> Batch:
    positions, starts, scored = (None if x is None else x[rows] for x in (batch.positions, batch.starts, batch.scored))
    return Batch(batch.tokens[rows], positions, starts, scored)


def _short_texts(batch: Batch, length: int) -> Example:
    """Return the sequences cut into texts of `length` tokens; what remains of each is left out. Documents stay isolated."""
    import torch

    count = (batch.tokens.shape[1] - 1) // length
    tokens = torch.from_numpy(batch.tokens)
    inputs, targets = (x[:, : count * length].reshape(-1, length) for x in (tokens[:, :-1], tokens[:, 1:]))
    positions = None if batch.positions is None else torch.from_numpy(batch.positions)
    # Sampled positions are for long texts.
    if positions is not None and bool((positions > torch.arange(positions.shape[1])).any()):
        positions = None
    if positions is not None:
        positions = from_first_token(positions[:, : count * length].reshape(-1, length))
    scored = torch.ones_like(targets, dtype=torch.bool)
    if batch.scored is not None:
        scored = torch.from_numpy(batch.scored)[:, 1 : count * length + 1].reshape(-1, length)
    return Example(inputs, targets, scored, positions)
