"""The mixture of reconstruction, where the decoder sees both sides, and continuation, where it sees the past."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from elongate.objectives.continuation import Continuation
from elongate.objectives.objective import Example, Objective
from elongate.objectives.reconstruction import Reconstruction
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Mixture(Objective):
    """objective=bidirectional on the autoencoder."""

    reconstruction_share: float  # of the loss, in (0, 1); the rest is continuation's

    word: ClassVar[str] = "bidirectional"
    needs: ClassVar[frozenset[str]] = frozenset({"autoencoder"})
    masks: ClassVar[bool] = True

    @property
    def scorer(self) -> Scorer:
        return Continuation().scorer

    def check_length(self, length: int, original_length: int) -> None:
        for objective, _ in self._parts:
            objective.check_length(length, original_length)

    def check_blocks(self, length: int, original_length: int, block_length: int) -> None:
        for objective, _ in self._parts:
            objective.check_blocks(length, original_length, block_length)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        return [
            replace(example, share=share * example.share)
            for objective, share in self._parts
            for example in objective.examples(batch, model)
        ]

    @property
    def _parts(self) -> tuple[tuple[Objective, float], ...]:
        return (Reconstruction(), self.reconstruction_share), (Continuation(), 1 - self.reconstruction_share)
