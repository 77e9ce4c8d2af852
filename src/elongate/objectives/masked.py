"""Masked language modelling (Devlin et al. 2018, arXiv:1810.04805, section 3.1): hidden tokens from all that is around them.

The mask is drawn anew for every batch (Liu et al. 2019, arXiv:1907.11692, section 4.1), and the same for the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import require
from elongate.objectives.fill_in import FillIn
from elongate.objectives.objective import Example, Objective
from elongate.objectives.reading import Reading

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Masked(Objective):
    mask_ratio: float = 0.15  # of the tokens of a sequence, in (0, 1)

    word: ClassVar[str] = "masked"
    needs: ClassVar[frozenset[str]] = frozenset({"masked"})
    masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "must be above 0 and below 1", "use {key}=0.15")

    @property
    def reading(self) -> Reading:
        return FillIn(self.mask_ratio)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        from elongate.objectives.masking import corrupted, random_of

        assert model.mask_token is not None, "the tokenizer was fitted for an objective that masks"
        tokens = batch.tokens[:, :-1]
        random = random_of(batch.tokens, self.word)
        hidden, chosen = corrupted(tokens, self.mask_ratio, model.mask_token, model.network.config.vocab_size, random)
        positions = None if batch.positions is None else torch.from_numpy(batch.positions)
        return [Example(torch.from_numpy(hidden), torch.from_numpy(tokens), torch.from_numpy(chosen), positions)]
