"""How a model is scored: the loss of each token of a text, and how likely an answer is after a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.models.language_model import LanguageModel

Losses = Float[np.ndarray, "n length"]
Answers = tuple[Float[np.ndarray, "n choices"], Bool[np.ndarray, "n choices"]]
Written = list[Int[np.ndarray, " written"]]


class Scorer(ABC):
    """Scores networks that are in evaluation mode. Figures are nan beyond the end of a table of positions.

    Each objective names the scorer that fits what it trains.
    """

    two_sided: ClassVar[bool] = False  # a loss depends on the tokens after it too, so on the length of the text
    writes: ClassVar[bool] = True  # a text can be continued token by token

    @abstractmethod
    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        """Return the loss of each token in nats; nan for a token that is not scored."""

    @abstractmethod
    def answers(
        self,
        model: LanguageModel,
        prefix: Int[np.ndarray, "n prefix"],
        choices: Int[np.ndarray, "n choices answer"],
    ) -> Answers:
        """Return the log-probability of each answer after its prefix, and whether greedy decoding writes it."""

    @abstractmethod
    def continuation(
        self,
        model: LanguageModel,
        prefixes: Int[np.ndarray, "n prefix"],
        num_tokens: int,
        stop: Callable[[np.ndarray], bool],
    ) -> Written | None:
        """Return the greedy continuation of each prefix, or None if the positions do not reach that far.

        A continuation ends after `num_tokens` tokens, or with the first token at which `stop(tokens
        written so far)` is true.
        """


def no_answers(choices: Int[np.ndarray, "n choices answer"]) -> Answers:
    """Return the result for answers that end beyond the table of positions: nan, and not written."""
    return np.full(choices.shape[:2], np.nan), np.zeros(choices.shape[:2], dtype=bool)


def score_answers(
    logits: Float[Tensor, "rows answer vocab"],
    wanted: Int[Tensor, "rows answer"],
    num_choices: int,
) -> Answers:
    """Sum the log-probabilities of each answer's tokens. Rows are the choices of the first text, of the second, ..."""
    chances = logits.double().log_softmax(-1).gather(-1, wanted[..., None])
    totals = chances.sum((1, 2)).view(-1, num_choices).cpu().numpy()
    return totals, (logits.argmax(-1) == wanted).all(1).view(-1, num_choices).cpu().numpy()
