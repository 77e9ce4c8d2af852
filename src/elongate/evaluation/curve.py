"""Loss by position: how much a token's context is worth, up to four times the target length.

Every sequence is the beginning of a held-out document and all have the same length, so every position is
scored on the same documents: a mean over tokens, in nats, summed in float64, with the standard error over
sequences. The objective decides how a text is read: a causal model reads it in one forward pass, a model that
reads both sides in one pass for each doubling, and only up to the target length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from elongate.data.sequences import HeldOut, held_out
from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.measurement.lengths import BATCH_TOKENS
from elongate.evaluation.measurement.samples import Record, digest_of
from elongate.evaluation.measurement.statistics import mean, standard_error
from elongate.evaluation.presentation.curve import CurvePresentation

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

ENOUGH = 8  # sequences; with fewer the curve becomes shorter
FINE_BINS = 64
FOLLOWED_SEQUENCES = 16  # sequences that are measured during the training, at most


@dataclass(frozen=True, kw_only=True)
class Curve(CurvePresentation, Evaluation):
    """The loss of held-out documents by position."""

    can_follow: ClassVar[bool] = True

    # Tokens, at least 2; null: four times the target length, or the target length for a model that reads both sides.
    length: int | None = None
    num_sequences: int = 48  # at most, at least 1

    def __post_init__(self) -> None:
        require(self.length is None or self.length > 1, "length", self.length, "must be at least 2", "use {key}=null")
        require(self.num_sequences > 0, "num_sequences", self.num_sequences, "must be at least 1", "use {key}=48")

    def header(self, setting: Setting) -> dict[str, Any]:
        samples = self._samples(setting)
        n, length = samples.tokens.shape
        edges = {part: {"edges": bounds} for part, bounds in _edges(setting, length).items()}
        return {"length": length} | setting.lengths | {"n": n, "documents": len(np.unique(samples.documents))} | edges

    def num_tokens(self, header: dict[str, Any]) -> int:
        return int(header["n"] * header["length"])

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        samples = self._samples(setting)
        length = samples.tokens.shape[1]
        edges = _edges(setting, length)
        names = [f"{length}/{number}" for number in range(len(samples))]
        left = [number for number, name in enumerate(names) if setting.samples.get(name) is None]
        rows = max(1, BATCH_TOKENS // length)
        model.network.eval()
        for i in range(0, len(left), rows):
            tick(f"curve {i}/{len(left)}")
            batch = left[i : i + rows]
            losses = setting.reading.losses(model, samples.tokens[batch], setting.original_length)
            setting.samples.add(
                {
                    names[number]: {"document": int(samples.documents[number])} | _record(samples.tokens[number], row, edges, setting)
                    for number, row in zip(batch, losses, strict=True)
                }
            )
        records = [setting.samples.get(name) or {} for name in names]
        return {part: _mean(*(np.array([record[part][key] for record in records]) for key in ("sums", "counts"))) for part in edges}

    def follow(self, model: LanguageModel, setting: Setting) -> float:
        """Return the mean loss in nats of all scored tokens up to the target length."""
        length = min(self._samples(setting).tokens.shape[1], setting.target_length)
        tokens = held_out(setting.held_out, length, min(FOLLOWED_SEQUENCES, self.num_sequences)).tokens
        rows = max(1, BATCH_TOKENS // length)
        losses = [setting.reading.losses(model, tokens[i : i + rows], setting.original_length) for i in range(0, len(tokens), rows)]
        return float(np.nanmean(np.concatenate(losses), dtype=np.float64))

    def _samples(self, setting: Setting) -> HeldOut:
        """Sequences of the length asked for; by default the length is halved until enough documents are that long."""
        length = self.length or (1 if setting.reading.two_sided else 4) * setting.target_length
        samples = held_out(setting.held_out, length, self.num_sequences)
        while self.length is None and len(samples) < min(ENOUGH, self.num_sequences) and length // 2 >= setting.original_length:
            length //= 2
            samples = held_out(setting.held_out, length, self.num_sequences)
        if len(samples) == 0:
            rule = f"finds no held-out document of {length} tokens"
            remedy = "use longer documents or a larger data.validation_ratio, or evaluation=[]"
            raise ConfigError("evaluation.curve.length", length, rule, remedy)
        return samples


def _record(
    tokens: Int[np.ndarray, " length"], losses: Float[np.ndarray, " length"], edges: dict[str, list[int]], setting: Setting
) -> Record:
    """Sums over the scored tokens of each bin of positions, and over all positions below the original length."""
    (near_loss,), (near_tokens,) = _sums(losses, [0, min(setting.original_length, len(losses))])
    record = {"text": digest_of(tokens), "within_original": near_tokens > 0, "near_loss": near_loss, "near_tokens": near_tokens}
    return record | {part: dict(zip(("sums", "counts"), _sums(losses, bounds), strict=True)) for part, bounds in edges.items()}


def _sums(losses: Float[np.ndarray, " length"], edges: list[int]) -> tuple[list[float], list[int]]:
    """The summed losses and the number of the scored tokens in each bin of a sequence."""
    scored, bins = ~np.isnan(losses), list(itertools.pairwise(edges))
    known = np.where(scored, losses, 0)
    return [float(known[start:stop].sum()) for start, stop in bins], [int(scored[start:stop].sum()) for start, stop in bins]


def _mean(sums: Float[np.ndarray, "n bins"], counts: Int[np.ndarray, "n bins"]) -> dict[str, Any]:
    """The mean over the scored tokens of each bin, and its standard error; None for a bin without scored tokens.

    The error is that of a ratio of sums over sequences. If all sequences have equally many scored tokens, it
    is the error of the mean of their means.
    """
    with np.errstate(invalid="ignore"):
        loss = sums.sum(axis=0) / counts.sum(axis=0)
        residuals = (sums - loss * counts) / counts.mean(axis=0)
    return {"loss": mean(loss[None]), "standard_error": standard_error(residuals)}


def _edges(setting: Setting, length: int) -> dict[str, list[int]]:
    """Bins of the two parts of a row: few wide ones for the table, many narrow ones for the figure."""
    return {"table": _table_edges(setting.original_length, length), "fine": _fine_edges(length)}


def _table_edges(original_length: int, length: int) -> list[int]:
    """0, a quarter of the original length, the original length and its doublings, the end."""
    edges = [0, original_length // 4, original_length]
    while edges[-1] * 2 < length:
        edges.append(edges[-1] * 2)
    # A first bin of fewer than two positions would contain no target.
    return [0, *(edge for edge in edges if 2 <= edge < length), length]


def _fine_edges(length: int) -> list[int]:
    width = max(2, length // FINE_BINS)
    return [*range(0, length - width + 1, width), length]
