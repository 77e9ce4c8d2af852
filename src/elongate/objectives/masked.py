"""Masked language modelling (Devlin et al. 2018, arXiv:1810.04805, section 3.1): hidden tokens from both sides.

The mask depends on the tokens of the batch, so every batch has a new one (Liu et al. 2019, arXiv:1907.11692, section
4.1) and a resumed run has the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import require
from elongate.objectives.objective import Example, Objective
from elongate.scoring.fill_in import FillIn
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Masked(Objective):
    """Masked language modelling."""

    mask_ratio: float = 0.15  # of the tokens of a sequence, in (0, 1)

    word: ClassVar[str] = "masked"
    needs: ClassVar[frozenset[str]] = frozenset({"masked"})
    masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        rule = "must be above 0 and below 1"
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, rule, "use {key}=0.15")

    @property
    def scorer(self) -> Scorer:
        return FillIn(self.mask_ratio)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        from elongate.objectives.masking import hide_tokens
        from elongate.scoring.draws import generator_for

        assert model.mask_token is not None, "the tokenizer was fitted for an objective that masks"
        tokens = batch.tokens[:, :-1]
        random = generator_for(batch.tokens, self.word)
        vocab_size = model.vocab_size
        hidden, chosen = hide_tokens(tokens, self.mask_ratio, model.mask_token, vocab_size, random)
        if batch.scored is not None:
            chosen &= batch.scored[:, :-1]
        positions = None if batch.positions is None else torch.from_numpy(batch.positions)
        return [Example(torch.from_numpy(hidden), torch.from_numpy(tokens), torch.from_numpy(chosen), positions)]
