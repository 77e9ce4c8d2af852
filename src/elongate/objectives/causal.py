"""Next-token prediction: every token from the ones before it, in its own document where documents are isolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.objectives.objective import Example, Objective
from elongate.objectives.reading import LeftToRight, Reading

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Causal(Objective):
    word: ClassVar[str] = "causal"
    needs: ClassVar[frozenset[str]] = frozenset({"causal"})

    @property
    def reading(self) -> Reading:
        return LeftToRight()

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        return [next_token(batch)]


def next_token(batch: Batch) -> Example:
    """Each token is the target of the one before it."""
    import torch

    # Shifted before anything is split: the last token of a part still has its target.
    tokens = torch.from_numpy(batch.tokens)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    if batch.positions is None or batch.starts is None:
        return Example(inputs, targets, torch.ones_like(targets, dtype=torch.bool), None)
    # The first token of a document cannot be told from the document before it.
    return Example(inputs, targets, ~torch.from_numpy(batch.starts)[:, 1:], torch.from_numpy(batch.positions))
