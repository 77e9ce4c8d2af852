"""Continuation: the start of a text is encoded, the rest is decoded token by token.

Each token is decoded from the latents of the start and from the decoded tokens before it.

The decoder first reads the last token of the context and predicts the first token after it, so
every decoded token is scored. Fails if the context does not help: the decoder then learns a
language model with `continuation_length` tokens of context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import ConfigError, require
from elongate.objectives.objective import Example, Objective
from elongate.scoring.scorer import Scorer
from elongate.scoring.segmentwise import Segmentwise, decoded_length

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Continuation(Objective):
    """Continuation of an encoded text."""

    continuation_length: int | None = None  # tokens that are decoded, at least 1; null: half of the original length

    word: ClassVar[str] = "continuation"
    needs: ClassVar[frozenset[str]] = frozenset({"autoencoder"})

    def __post_init__(self) -> None:
        value = self.continuation_length
        require(value is None or value > 0, "continuation_length", value, "must be at least 1", "use {key}=null")

    @property
    def scorer(self) -> Scorer:
        return Segmentwise(self.continuation_length)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        tokens = torch.from_numpy(batch.tokens[:, :-1])
        start = tokens.shape[1] - decoded_length(self.continuation_length, model.original_length)
        targets = tokens[:, start:]
        if batch.positions is None or batch.starts is None:
            scored, positions = torch.ones_like(targets, dtype=torch.bool), None
        else:
            # A token that does not follow the one before it in its document cannot be predicted from it.
            scored = ~torch.from_numpy(batch.starts)[:, start:-1]
            positions = torch.from_numpy(batch.positions)[:, :-1]
        if batch.scored is not None:
            scored = scored & torch.from_numpy(batch.scored)[:, start:-1]
        return [Example(tokens[:, start - 1 : -1], targets, scored, positions, context=tokens[:, :start])]

    def check_blocks(self, length: int, original_length: int, block_length: int) -> None:
        size = decoded_length(self.continuation_length, original_length)
        context = length - size
        if context > 0 and context % block_length == 0:
            return
        blocks = max(1, round(context / block_length))
        rule = f"leaves {context} of {length} tokens to encode, not a multiple of the block length {block_length}"
        if length != original_length:
            raise ConfigError("context.target_length", length, rule, f"use {{key}}={size + blocks * block_length}")
        fitting = length - min(blocks, (length - 1) // block_length) * block_length
        remedy = f"use {{key}}={fitting}" if fitting < length else f"use model.block_length={length // 2}"
        raise ConfigError("objective.continuation_length", self.continuation_length, rule, remedy)
