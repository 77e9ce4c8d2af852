"""Continuation: the first part of a text is encoded, the rest is decoded token by token, each from what was encoded and from those before.

The decoder reads the last token of the context before all others, and tells the first token after the context from it: every decoded
token is scored. Fails where the context does not help: the decoder then learns a language model of its own, `continuation_length` short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from jaxtyping import Int

from elongate.errors import ConfigError, require
from elongate.objectives.objective import Example, Objective
from elongate.objectives.reading import Answers, Losses, Reading, Written, greedy, scored_answers, tokens_after

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.data.sequences import Batch
    from elongate.models.autoencoder.autoencoder import Autoencoder
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Continuation(Objective):
    continuation_length: int | None = None  # tokens that are decoded, at least 1; null: half of the model's original length

    word: ClassVar[str] = "continuation"
    needs: ClassVar[frozenset[str]] = frozenset({"autoencoder"})

    def __post_init__(self) -> None:
        value = self.continuation_length
        require(value is None or value > 0, "continuation_length", value, "must be at least 1", "use {key}=null")

    @property
    def reading(self) -> Reading:
        return InStretches(self.continuation_length)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        tokens = torch.from_numpy(batch.tokens[:, :-1])
        start = tokens.shape[1] - decoded(self.continuation_length, model.original_length)
        targets = tokens[:, start:]
        if batch.positions is None or batch.starts is None:
            scored, positions = torch.ones_like(targets, dtype=torch.bool), None
        else:
            # What does not follow on the token before it cannot be told from that.
            scored = ~torch.from_numpy(batch.starts)[:, start:-1]
            positions = torch.from_numpy(batch.positions)[:, :-1]
        return [Example(tokens[:, start - 1 : -1], targets, scored, positions, context=tokens[:, :start])]

    def check_blocks(self, length: int, original_length: int, block_length: int) -> None:
        size = decoded(self.continuation_length, original_length)
        context = length - size
        if context > 0 and context % block_length == 0:
            return
        blocks = max(1, round(context / block_length))
        rule = f"leaves {context} of {length} tokens to encode, which must be a whole number of blocks of {block_length}"
        if length != original_length:
            raise ConfigError("context.target_length", length, rule, f"use {{key}}={size + blocks * block_length}")
        fitting = length - min(blocks, (length - 1) // block_length) * block_length
        remedy = f"use {{key}}={fitting}" if fitting < length else f"use model.block_length={length // 2}"
        raise ConfigError("objective.continuation_length", self.continuation_length, rule, remedy)


def decoded(continuation_length: int | None, original_length: int) -> int:
    """Tokens that are decoded, whatever the length of the text."""
    return original_length // 2 if continuation_length is None else continuation_length


@dataclass(frozen=True)
class InStretches(Reading):
    """A text is encoded once, and decoded stretch by stretch, each as long as those of training, from the blocks before it."""

    continuation_length: int | None

    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        import torch

        from elongate.objectives.cross_entropy import token_cross_entropy

        # Only whole blocks are encoded before what follows them.
        blocks = max(1, decoded(self.continuation_length, original_length) // model.block_length)
        size = blocks * model.block_length
        losses = np.full(tokens.shape, np.nan)
        if tokens.shape[1] > size:
            batch = torch.from_numpy(tokens).to(model.device)
            with torch.no_grad():
                hidden = cast("Autoencoder", model).continued(batch, size)
            losses[:, size:] = token_cross_entropy(hidden, model.head, batch[:, size:], model.precision).double().cpu().numpy()
        return losses

    def answers(self, model: LanguageModel, prefix: Int[np.ndarray, "n prefix"], choices: Int[np.ndarray, "n choices answer"]) -> Answers:
        import torch
        from torch.nn import functional as F

        _, num_choices, size = choices.shape
        wanted = torch.from_numpy(choices).flatten(0, 1).to(model.device)
        texts = torch.cat([torch.from_numpy(prefix).to(model.device).repeat_interleave(num_choices, dim=0), wanted], dim=1)
        # The leading whole blocks are encoded, what is left of the prefix is decoded with the answer; a prefix below a block is one.
        encoded = prefix.shape[1] // model.block_length * model.block_length or prefix.shape[1]
        with torch.no_grad(), model.autocast():
            hidden = model.hidden(texts[:, encoded - 1 : -1], context=texts[:, :encoded])
            logits = F.linear(hidden[:, -size:], *model.head)
        return scored_answers(logits, wanted, num_choices)

    def continuation(
        self, model: LanguageModel, prefixes: Int[np.ndarray, "n prefix"], num_tokens: int, stop: Callable[[np.ndarray], bool]
    ) -> Written | None:
        """What was written is encoded too as soon as it is as long as the stretches of training, so no more than such a one is decoded."""
        first = prefixes.shape[1] // model.block_length * model.block_length or prefixes.shape[1]
        stretch = max(1, decoded(self.continuation_length, model.original_length) // model.block_length) * model.block_length

        def logits(texts: Tensor) -> Tensor:
            encoded = first + (texts.shape[1] - first) // stretch * stretch
            return tokens_after(model, model.hidden(texts[:, encoded - 1 :], context=texts[:, :encoded])[:, -1])

        return greedy(model, prefixes, num_tokens, stop, logits)
