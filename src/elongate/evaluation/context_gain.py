"""What more context is worth: the loss told from the last k tokens less the loss told from all of them, of the same targets.

The effective context is the smallest k beyond which no longer context tells 0.01 nats more: what lies further back is not used, or is of no
use. Where the whole context tells worse than a part of it, because it is longer than the model can read, gains are below 0 and say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from elongate.errors import require
from elongate.evaluation.contexts import by_context, check_fields, check_left_to_right, documents
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.intervals import by_percentiles, of_mean

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

NEGLIGIBLE = 0.01  # nats
_ENOUGH = 20  # documents for an interval of the effective context
_SHORTEST = 16  # the shortest context as a share of the original length


@dataclass(frozen=True, kw_only=True)
class ContextGain(Evaluation):
    lengths: list[int] | None = None  # tokens of a context, the last of which are told; null: original length / 16 to the target
    num_scored: int | None = None  # tokens at the end of each text that are told, below the shortest length; null: half of it
    num_sequences: int = 48  # documents at most, at least 2

    word: ClassVar[str] = "context_gain"

    def __post_init__(self) -> None:
        check_fields(self.lengths, self.num_sequences)
        sound = self.num_scored is None or 0 < self.num_scored < (self.lengths or [self.num_scored + 1])[0]
        require(sound, "num_scored", self.num_scored, "must be at least 1 and below the shortest length", "use {key}=null")

    def check(self, reading: Scorer) -> None:
        check_left_to_right(self.word, reading)

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        texts, lengths, scored = self._texts(setting)
        known = {"original_length": setting.original_length, "target_length": setting.target_length, "lengths": lengths}
        return known | {"n": len(texts), "scored": scored, "negligible": NEGLIGIBLE}

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        texts, lengths, scored = self._texts(setting)
        losses = [found.mean(axis=1) for found in by_context(model, setting, texts, lengths, scored, tick)]
        # A length that a table of positions does not reach to has no figure; the longest that has one is the whole context.
        whole = next((loss for loss in reversed(losses) if not np.isnan(loss).any()), losses[-1])
        gains = [loss - whole for loss in losses]
        read = [not np.isnan(gain).any() for gain in gains]
        row: dict[str, Any] = {
            "loss": [float(loss.mean()) if is_read else None for loss, is_read in zip(losses, read, strict=True)],
            "gain": [float(gain.mean()) if is_read else None for gain, is_read in zip(gains, read, strict=True)],
            "gain_interval": [of_mean(gain) if is_read else None for gain, is_read in zip(gains, read, strict=True)],
            "effective_context": None,
            "effective_context_interval": None,
        }
        if any(read):
            known = np.array([length for length, is_read in zip(lengths, read, strict=True) if is_read])
            by_document = np.stack([gain for gain, is_read in zip(gains, read, strict=True) if is_read], axis=1)

            def effective(drawn: np.ndarray) -> np.ndarray:
                return known[_shortest_enough(drawn.mean(axis=1))]

            row["effective_context"] = int(effective(by_document[None])[0])
            if len(by_document) >= _ENOUGH:
                row["effective_context_interval"] = by_percentiles(by_document, effective, setting.seed)
        return row

    def _texts(self, setting: Setting) -> tuple[np.ndarray, list[int], int]:
        smallest = max(4, setting.original_length // _SHORTEST)
        if self.num_scored is not None:
            smallest = max(smallest, self.num_scored + 1)
        found, lengths = documents(self.word, setting, self.lengths, (smallest, setting.target_length), self.num_sequences)
        return found.tokens, lengths, self.num_scored or lengths[0] // 2


def _shortest_enough(gains: Float[np.ndarray, "draws lengths"]) -> Int[np.ndarray, " draws"]:
    """Number of the shortest length beyond which no longer one tells more than is negligible."""
    best_beyond = np.minimum.accumulate(gains[:, ::-1], axis=1)[:, ::-1]
    return np.argmax(gains - best_beyond < NEGLIGIBLE, axis=1)
