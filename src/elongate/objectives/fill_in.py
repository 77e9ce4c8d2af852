"""How a model that sees both sides is measured: by the loss of hidden tokens (as in arXiv:1810.04805), as far into the text as they lie.

What such a model makes of a token depends on how much it reads besides. So a text is read at the original length and at its doublings, and
each reading scores the tokens that the one before it did not reach: positions 0…o from o tokens, o…2o from 2o tokens, and so on. That is
the nearest thing to the loss by position of a causal model: the loss at a position says what a text of about that length is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from elongate.errors import ConfigError
from elongate.objectives.reading import Answers, Losses, Reading, Written, scored_answers

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

NUM_MASKS = 2  # disjoint ones over each reading, fewer where so many do not fit


@dataclass(frozen=True)
class FillIn(Reading):
    mask_ratio: float  # of the tokens that are read, in (0, 1): as many as were hidden in training

    two_sided: ClassVar[bool] = True
    writes: ClassVar[bool] = False

    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        losses = np.full(tokens.shape, np.nan)
        for start, stop in _readings(tokens.shape[1], original_length):
            if model.last_position(stop - 1) < stop - 1:
                break
            read = tokens[:, :stop]
            for hidden in _masks(read, self.mask_ratio):
                scored = hidden & (np.arange(stop) >= start)
                losses[:, :stop][scored] = self.told(model, read, hidden, scored)
        return losses

    def told(
        self,
        model: LanguageModel,
        tokens: Int[np.ndarray, "n length"],
        hidden: Bool[np.ndarray, "n length"],
        scored: Bool[np.ndarray, "n length"] | None = None,
    ) -> Float[np.ndarray, " scored"]:
        """Losses of hidden tokens, all of them or those that are scored, row by row: told from those that are not hidden."""
        import torch

        from elongate.objectives.cross_entropy import token_cross_entropy

        assert model.mask_token is not None, "the tokenizer was fitted for an objective that masks"
        scored = hidden if scored is None else scored
        inputs = torch.from_numpy(np.where(hidden, model.mask_token, tokens)).to(model.device)
        with torch.no_grad():
            states = model.before_head(model.hidden(inputs)[torch.from_numpy(scored).to(model.device)])
        targets = torch.from_numpy(tokens[scored]).to(model.device)
        found = token_cross_entropy(states[None], model.head, targets[None], model.precision)
        return found[0].double().cpu().numpy()

    def answers(self, model: LanguageModel, prefix: Int[np.ndarray, "n prefix"], choices: Int[np.ndarray, "n choices answer"]) -> Answers:
        """The answer is hidden as a whole, and every token of it told from one pass over the text before it."""
        import torch

        count, num_choices, size = choices.shape
        length = prefix.shape[1] + size
        if model.last_position(length - 1) < length - 1:
            return np.full((count, num_choices), np.nan), np.zeros((count, num_choices), dtype=bool)
        hidden = np.full((count, size), model.mask_token)
        inputs = torch.from_numpy(np.concatenate([prefix, hidden], axis=1)).to(model.device)
        wanted = torch.from_numpy(choices).flatten(0, 1).to(model.device)
        weight, bias = model.head
        with torch.no_grad():
            states = model.before_head(model.hidden(inputs)[:, -size:])
            logits = torch.nn.functional.linear(states.to(weight.dtype), weight, bias)
        # One pass serves all choices.
        return scored_answers(logits.repeat_interleave(num_choices, dim=0), wanted, num_choices)

    def continuation(
        self, model: LanguageModel, prefixes: Int[np.ndarray, "n prefix"], num_tokens: int, stop: Callable[[np.ndarray], bool]
    ) -> Written | None:
        remedy = "use a causal model, or an autoencoder that learned to continue a text"
        raise ConfigError("objective", "masked", "fills in what is hidden and writes no text", remedy)


def _readings(length: int, original_length: int) -> Iterator[tuple[int, int]]:
    """(first token that is scored, tokens that are read) of each reading."""
    start, stop = 0, original_length
    while start < length:
        yield start, min(stop, length)
        start, stop = stop, 2 * stop


def _masks(read: Int[np.ndarray, "n length"], ratio: float) -> Iterator[Bool[np.ndarray, "n length"]]:
    """Which tokens are hidden: the same for the same text, whatever is read beside it and whichever model reads it."""
    from elongate.objectives.masking import random_of

    count, length = read.shape
    order = np.stack([random_of(row[None], "fill in").permutation(length) for row in read]).reshape(count, length)
    size = max(1, round(ratio * length))
    for number in range(max(1, min(NUM_MASKS, length // size))):
        yield (order >= number * size) & (order < (number + 1) * size)
