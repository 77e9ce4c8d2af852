"""Scoring a model that sees both sides: the loss of hidden tokens (Devlin et al. 2018, arXiv:1810.04805), by position.

The prediction of a hidden token depends on how much text is read around it. So a text is read several times, at the
original length and at its doublings, and each pass scores the tokens that the pass before it did not reach: positions
0 to o from o tokens, o to 2o from 2o tokens, and so on. This is the closest equivalent of a causal model's loss by
position: the loss at a position shows what a text of about that length is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from elongate.errors import ConfigError
from elongate.scoring.draws import generator_for
from elongate.scoring.scorer import Answers, Losses, Scorer, Written, no_answers, score_answers

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

NUM_MASKS = 2  # disjoint masks in each pass; one where two would not fit


@dataclass(frozen=True)
class FillIn(Scorer):
    """Scores hidden tokens from all tokens that are not hidden."""

    mask_ratio: float  # share of the tokens that is hidden, in (0, 1): as in training

    two_sided: ClassVar[bool] = True
    writes: ClassVar[bool] = False

    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        losses = np.full(tokens.shape, np.nan)
        for start, stop in _passes(tokens.shape[1], original_length):
            if model.last_position(stop - 1) < stop - 1:
                break
            read = tokens[:, :stop]
            for hidden in _masks(read, self.mask_ratio):
                scored = hidden & (np.arange(stop) >= start)
                losses[:, :stop][scored] = score_hidden(model, read, hidden, scored)
        return losses

    def answers(
        self,
        model: LanguageModel,
        prefix: Int[np.ndarray, "n prefix"],
        choices: Int[np.ndarray, "n choices answer"],
    ) -> Answers:
        """Hide the whole answer and score its tokens in one pass over the text before it."""
        import torch

        count, num_choices, size = choices.shape
        length = prefix.shape[1] + size
        if model.last_position(length - 1) < length - 1:
            return no_answers(choices)
        hidden = np.full((count, size), model.mask_token)
        inputs = torch.from_numpy(np.concatenate([prefix, hidden], axis=1)).to(model.device)
        wanted = torch.from_numpy(choices).flatten(0, 1).to(model.device)
        with torch.no_grad():
            logits = model.logits(model.hidden(inputs)[:, -size:])
        # One pass serves all choices.
        return score_answers(logits.repeat_interleave(num_choices, dim=0), wanted, num_choices)

    def continuation(
        self,
        model: LanguageModel,
        prefixes: Int[np.ndarray, "n prefix"],
        num_tokens: int,
        stop: Callable[[np.ndarray], bool],
    ) -> Written | None:
        remedy = "use a causal model, or an autoencoder trained with objective=continuation"
        raise ConfigError("objective", "masked", "predicts hidden tokens and cannot write text", remedy)


def score_hidden(
    model: LanguageModel,
    tokens: Int[np.ndarray, "n length"],
    hidden: Bool[np.ndarray, "n length"],
    scored: Bool[np.ndarray, "n length"] | None = None,
) -> Float[np.ndarray, " scored"]:
    """Return the losses of the hidden tokens, or of those of them that are `scored`, row by row, in nats."""
    import torch

    from elongate.scoring.token_loss import token_cross_entropy

    assert model.mask_token is not None, "the tokenizer was fitted for an objective that masks"
    scored = hidden if scored is None else scored
    inputs = torch.from_numpy(np.where(hidden, model.mask_token, tokens)).to(model.device)
    with torch.no_grad():
        states = model.head_inputs(model.hidden(inputs)[torch.from_numpy(scored).to(model.device)])
    targets = torch.from_numpy(tokens[scored]).to(model.device)
    found = token_cross_entropy(states[None], model.head, targets[None], model.precision)
    return found[0].double().cpu().numpy()


def _passes(length: int, original_length: int) -> Iterator[tuple[int, int]]:
    """Yield (first token that is scored, number of tokens that are read) for each pass."""
    start, stop = 0, original_length
    while start < length:
        yield start, min(stop, length)
        start, stop = stop, 2 * stop


def _masks(read: Int[np.ndarray, "n length"], ratio: float) -> Iterator[Bool[np.ndarray, "n length"]]:
    """Yield masks of hidden tokens. They depend only on the text: not on the other rows, not on the model."""
    count, length = read.shape
    order = np.stack([generator_for(row[None], "fill in").permutation(length) for row in read]).reshape(count, length)
    size = max(1, round(ratio * length))
    for number in range(max(1, min(NUM_MASKS, length // size))):
        yield (order >= number * size) & (order < (number + 1) * size)
