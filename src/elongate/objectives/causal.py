"""Next-token prediction: every token from the tokens before it, within its document if documents are isolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.objectives.objective import Example, Objective
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Causal(Objective):
    """Next-token prediction."""

    word: ClassVar[str] = "causal"
    needs: ClassVar[frozenset[str]] = frozenset({"causal"})
    plan_is_exact: ClassVar[bool] = True

    @property
    def scorer(self) -> Scorer:
        return LeftToRight()

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        return [next_token(batch)]


def next_token(batch: Batch) -> Example:
    """Return an example in which each token is the target of the one before it."""
    import torch

    # Shift before anything is split, so that the last token of a part still has its target.
    tokens = torch.from_numpy(batch.tokens)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    scored = torch.ones_like(targets, dtype=torch.bool) if batch.scored is None else torch.from_numpy(batch.scored)[:, 1:]
    if batch.positions is None or batch.starts is None:
        return Example(inputs, targets, scored, None)
    # The first token of a document cannot be predicted from the document before it.
    return Example(inputs, targets, scored & ~torch.from_numpy(batch.starts)[:, 1:], torch.from_numpy(batch.positions))
