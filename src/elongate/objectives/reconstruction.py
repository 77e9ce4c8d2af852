"""Reconstruction: the whole text from its latents, L = 1/L Σ ℓ(D(E(x))_i, x_i), over all places, hidden or not.

The input is corrupted as BERT's is (masking.py): without compression, the model would otherwise
learn the identity and nothing about the language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import ConfigError, require
from elongate.objectives.objective import Example, Objective
from elongate.scoring.fill_in import FillIn
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Objective):
    """Reconstruction of a corrupted text."""

    mask_ratio: float = 0.3  # share of the tokens that is hidden from the encoder, in (0, 1)

    word: ClassVar[str] = "reconstruction"
    needs: ClassVar[frozenset[str]] = frozenset({"autoencoder"})
    masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "must be in (0, 1)", "use {key}=0.3")

    @property
    def scorer(self) -> Scorer:
        return FillIn(mask_ratio=self.mask_ratio)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        from elongate.objectives.masking import hide_tokens
        from elongate.scoring.draws import generator_for

        assert model.mask_token is not None, "the tokenizer was fitted for an objective that masks"
        tokens = batch.tokens[:, :-1]
        random = generator_for(tokens, self.word)
        hidden, _ = hide_tokens(tokens, self.mask_ratio, model.mask_token, model.vocab_size, random)
        targets = torch.from_numpy(tokens)
        scored = torch.ones_like(targets, dtype=torch.bool) if batch.scored is None else torch.from_numpy(batch.scored[:, :-1])
        positions = None if batch.positions is None else torch.from_numpy(batch.positions)
        return [Example(torch.from_numpy(hidden), targets, scored, positions)]

    def check_blocks(self, length: int, original_length: int, block_length: int) -> None:
        if length % block_length:
            nearest = max(1, round(length / block_length)) * block_length
            rule = f"is not a multiple of the block length {block_length}"
            raise ConfigError("context.target_length", length, rule, f"use {{key}}={nearest}")
