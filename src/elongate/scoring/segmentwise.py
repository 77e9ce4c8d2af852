"""Scoring an autoencoder: the start of a text is encoded, and what follows is decoded from it, segment by segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Int

from elongate.scoring.decoding import decode_greedily
from elongate.scoring.scorer import Answers, Losses, Scorer, Written, score_answers

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.models.autoencoder.autoencoder import Autoencoder
    from elongate.models.language_model import LanguageModel


def decoded_length(continuation_length: int | None, original_length: int) -> int:
    """Return how many tokens are decoded: the same number for every length of the text."""
    return original_length // 2 if continuation_length is None else continuation_length


@dataclass(frozen=True)
class Segmentwise(Scorer):
    """Encodes a text once and decodes it in segments as long as in training, each from the blocks before it."""

    continuation_length: int | None  # tokens that are decoded in training; None: half of the original length

    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        import torch

        from elongate.scoring.token_loss import token_cross_entropy

        size = self._segment_length(model, original_length)
        losses = np.full(tokens.shape, np.nan)
        if tokens.shape[1] > size:
            batch = torch.from_numpy(tokens).to(model.device)
            with torch.no_grad():
                hidden = cast("Autoencoder", model).continued(batch, size)
            found = token_cross_entropy(hidden, model.head, batch[:, size:], model.precision)
            losses[:, size:] = found.double().cpu().numpy()
        return losses

    def answers(
        self,
        model: LanguageModel,
        prefix: Int[np.ndarray, "n prefix"],
        choices: Int[np.ndarray, "n choices answer"],
    ) -> Answers:
        import torch

        _, num_choices, size = choices.shape
        wanted = torch.from_numpy(choices).flatten(0, 1).to(model.device)
        prefixes = torch.from_numpy(prefix).to(model.device).repeat_interleave(num_choices, dim=0)
        texts = torch.cat([prefixes, wanted], dim=1)
        encoded = _encoded_length(model, prefix.shape[1])
        with torch.no_grad(), model.autocast():
            hidden = model.hidden(texts[:, encoded - 1 : -1], context=texts[:, :encoded])
            logits = model.logits(hidden[:, -size:])
        return score_answers(logits, wanted, num_choices)

    def continuation(
        self,
        model: LanguageModel,
        prefixes: Int[np.ndarray, "n prefix"],
        num_tokens: int,
        stop: Callable[[np.ndarray], bool],
    ) -> Written | None:
        """Written text is encoded too once it is as long as a segment, so at most one segment is ever decoded."""
        first = _encoded_length(model, prefixes.shape[1])
        segment = self._segment_length(model, model.original_length)

        def next_logits(texts: Tensor) -> Tensor:
            encoded = first + (texts.shape[1] - first) // segment * segment
            return model.logits(model.hidden(texts[:, encoded - 1 :], context=texts[:, :encoded])[:, -1])

        return decode_greedily(model, prefixes, num_tokens, stop, next_logits)

    def _segment_length(self, model: LanguageModel, original_length: int) -> int:
        """Return the length that is decoded in training, rounded down to whole blocks, at least one."""
        blocks = max(1, decoded_length(self.continuation_length, original_length) // model.block_length)
        return blocks * model.block_length


def _encoded_length(model: LanguageModel, prefix_length: int) -> int:
    """Return how much of a prefix is encoded: its whole blocks, or all of it if it is shorter than a block."""
    return prefix_length // model.block_length * model.block_length or prefix_length
