"""What more context is worth: the loss with the last k tokens of context minus the loss with all of them.

The effective context is the smallest k beyond which no longer context improves the loss by 0.01 nats: text
further back is not used, or does not help. If the whole context is longer than the model can read, it
predicts worse than a part of it, and gains are negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from elongate.errors import require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.measurement.contexts import check_fields, check_left_to_right, documents, losses_by_context
from elongate.evaluation.measurement.intervals import mean_interval, percentile_interval
from elongate.evaluation.presentation.by_length import ContextGainPresentation

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

NEGLIGIBLE = 0.01  # nats
_ENOUGH = 20  # documents for an interval of the effective context; percentile intervals of fewer are too narrow
_SHORTEST = 16  # the shortest context is the original length divided by this


@dataclass(frozen=True, kw_only=True)
class ContextGain(ContextGainPresentation, Evaluation):
    """The loss of the same tokens by the length of the context that predicts them."""

    lengths: list[int] | None = None  # tokens read, the scored ones included; null: original length / 16 to the target
    num_scored: int | None = None  # scored tokens at the end of each text, below the shortest length; null: half of it
    num_sequences: int = 48  # documents at most, at least 2

    def __post_init__(self) -> None:
        check_fields(self.lengths, self.num_sequences)
        valid = self.num_scored is None or 0 < self.num_scored < (self.lengths or [self.num_scored + 1])[0]
        require(valid, "num_scored", self.num_scored, "must be at least 1 and below the shortest length", "use {key}=null")

    def check(self, reading: Scorer) -> None:
        check_left_to_right(self.word, reading)

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        texts, lengths, scored = self._texts(setting)
        return setting.lengths | {"lengths": lengths, "n": len(texts), "scored": scored, "negligible": NEGLIGIBLE}

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        texts, lengths, scored = self._texts(setting)
        losses = [found.mean(axis=1) for found in losses_by_context(model, setting, texts, lengths, scored, tick)]
        # A length beyond a table of positions has no figure; the longest one that has a figure is the whole context.
        whole = next((loss for loss in reversed(losses) if not np.isnan(loss).any()), losses[-1])
        gains = [loss - whole for loss in losses]
        is_read = [not np.isnan(gain).any() for gain in gains]
        row: dict[str, Any] = {
            "loss": [float(loss.mean()) if read else None for loss, read in zip(losses, is_read, strict=True)],
            "gain": [float(gain.mean()) if read else None for gain, read in zip(gains, is_read, strict=True)],
            "gain_interval": [mean_interval(gain) if read else None for gain, read in zip(gains, is_read, strict=True)],
        }
        read_lengths = [length for length, read in zip(lengths, is_read, strict=True) if read]
        read_gains = [gain for gain, read in zip(gains, is_read, strict=True) if read]
        return row | _effective_context(read_lengths, read_gains, setting.seed)

    def _texts(self, setting: Setting) -> tuple[np.ndarray, list[int], int]:
        smallest = max(4, setting.original_length // _SHORTEST)
        if self.num_scored is not None:
            smallest = max(smallest, self.num_scored + 1)
        found, lengths = documents(self.word, setting, self.lengths, (smallest, setting.target_length), self.num_sequences)
        return found.tokens, lengths, self.num_scored or lengths[0] // 2


def _effective_context(lengths: list[int], gains: list[Float[np.ndarray, " documents"]], seed: int) -> dict[str, Any]:
    """The effective context with its interval; None without lengths that were read, or with too few documents."""
    if not gains:
        return {"effective_context": None, "effective_context_interval": None}
    by_document, candidates = np.stack(gains, axis=1), np.array(lengths)

    def effective(draws: Float[np.ndarray, "draws documents lengths"]) -> Int[np.ndarray, " draws"]:
        return candidates[_shortest_sufficient(draws.mean(axis=1))]

    interval = percentile_interval(by_document, effective, seed) if len(by_document) >= _ENOUGH else None
    return {"effective_context": int(effective(by_document[None])[0]), "effective_context_interval": interval}


def _shortest_sufficient(gains: Float[np.ndarray, "draws lengths"]) -> Int[np.ndarray, " draws"]:
    """The index of the shortest length beyond which no longer one is better by more than is negligible."""
    best_beyond = np.minimum.accumulate(gains[:, ::-1], axis=1)[:, ::-1]
    return np.argmax(gains - best_beyond < NEGLIGIBLE, axis=1)
