"""Reconstruction: the whole text from what the encoder makes of it, L = 1/L Σ ℓ(D(E(x))_i, x_i), over all places, hidden or not.

The input is corrupted as BERT's is (masking.py): where nothing is compressed the identity would be learned, and nothing of the language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import ConfigError, require
from elongate.objectives.objective import Example, Objective
from elongate.objectives.reading import Reading

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Objective):
    mask_ratio: float = 0.3  # of the tokens that the encoder reads, hidden from it; in (0, 1)

    word: ClassVar[str] = "reconstruction"
    needs: ClassVar[frozenset[str]] = frozenset({"autoencoder"})
    masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "must be in (0, 1)", "use {key}=0.3")

    @property
    def reading(self) -> Reading:
        from elongate.objectives.fill_in import FillIn

        return FillIn(mask_ratio=self.mask_ratio)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        from elongate.objectives.masking import corrupted, random_of

        assert model.mask_token is not None, "the tokenizer of an objective that masks has one"
        tokens = batch.tokens[:, :-1]
        hidden, _ = corrupted(tokens, self.mask_ratio, model.mask_token, model.network.config.vocab_size, random_of(tokens, self.word))
        targets = torch.from_numpy(tokens)
        positions = None if batch.positions is None else torch.from_numpy(batch.positions)
        return [Example(torch.from_numpy(hidden), targets, torch.ones_like(targets, dtype=torch.bool), positions)]

    def check_blocks(self, length: int, original_length: int, block_length: int) -> None:
        if length % block_length:
            nearest = max(1, round(length / block_length)) * block_length
            rule = f"is no whole number of blocks of {block_length} tokens"
            raise ConfigError("context.target_length", length, rule, f"use {{key}}={nearest}")
