"""Scoring a causal model: every token from the tokens before it, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from elongate.scoring.decoding import decode_greedily
from elongate.scoring.next_logits import next_logits
from elongate.scoring.scorer import Answers, Losses, Scorer, Written, no_answers, score_answers

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.models.language_model import LanguageModel


class LeftToRight(Scorer):
    """Scores every token from the tokens before it."""

    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        import torch

        from elongate.scoring.token_loss import token_cross_entropy

        losses = np.full(tokens.shape, np.nan)
        # Stop at the last position of a table. Its state could still predict one more token, but that token would
        # be the only one in the bin of positions that it begins.
        batch = torch.from_numpy(tokens[:, : model.last_position(tokens.shape[1] - 1) + 1]).to(model.device)
        with torch.no_grad():
            states = model.head_inputs(model.hidden(batch[:, :-1]))
        found = token_cross_entropy(states, model.head, batch[:, 1:], model.precision)
        losses[:, 1 : batch.shape[1]] = found.double().cpu().numpy()
        return losses

    def answers(
        self,
        model: LanguageModel,
        prefix: Int[np.ndarray, "n prefix"],
        choices: Int[np.ndarray, "n choices answer"],
    ) -> Answers:
        import torch

        _, num_choices, size = choices.shape
        length = prefix.shape[1] + size - 1
        if model.last_position(length - 1) < length - 1:
            return no_answers(choices)
        wanted = torch.from_numpy(choices).flatten(0, 1).to(model.device)
        prefixes = torch.from_numpy(prefix).to(model.device)
        with torch.no_grad(), model.autocast():
            texts = torch.cat([prefixes.repeat_interleave(num_choices, dim=0), wanted[:, :-1]], dim=1)
            # The cache of transformers does not support attention in regions, and only keys and values can be repeated
            # for every choice: the states of convolutions and recurrences cannot.
            if model.layout(texts, None).is_plain and model.separates_documents and model.continues_from_cache:
                logits = self._cached_logits(model, prefixes, wanted, num_choices)
            else:
                logits = model.logits(model.hidden(texts)[:, -size:])
        return score_answers(logits, wanted, num_choices)

    @staticmethod
    def _cached_logits(
        model: LanguageModel, prefixes: Int[Tensor, "n prefix"], wanted: Int[Tensor, "rows answer"], num_choices: int
    ) -> Float[Tensor, "rows answer vocab"]:
        """Compute the logits of all choices from one pass over their prefix."""
        import torch

        size = wanted.shape[1]
        model.set_text_length(prefixes.shape[1] + size - 1)
        prefilled = model.network(input_ids=prefixes, use_cache=True, logits_to_keep=1)
        logits = prefilled.logits.repeat_interleave(num_choices, dim=0)
        if size > 1:
            cache = prefilled.past_key_values
            cache.batch_repeat_interleave(num_choices)
            rest = model.network(input_ids=wanted[:, :-1], past_key_values=cache, use_cache=True).logits
            logits = torch.cat([logits, rest], dim=1)
        return logits

    def continuation(
        self,
        model: LanguageModel,
        prefixes: Int[np.ndarray, "n prefix"],
        num_tokens: int,
        stop: Callable[[np.ndarray], bool],
    ) -> Written | None:
        length = prefixes.shape[1] + num_tokens - 1
        if model.last_position(length - 1) < length - 1:
            return None
        return decode_greedily(model, prefixes, num_tokens, stop, next_logits(model, length))
