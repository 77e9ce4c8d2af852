"""Pseudo-perplexity of a masked model (Salazar et al. 2020, arXiv:1910.14659).

Each token is hidden alone and predicted from all others. By length, and within a text by position and by the
distance to the nearer edge: near an edge a model has context on one side only, and positions that a stretched
table has interpolated are there. Every hidden token costs one pass, so evenly spread tokens represent a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.measurement.contexts import check_fields, documents
from elongate.evaluation.measurement.lengths import BATCH_TOKENS
from elongate.evaluation.measurement.statistics import mean, standard_error
from elongate.evaluation.presentation.by_length import PseudoPerplexityPresentation
from elongate.scoring.fill_in import score_hidden

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class PseudoPerplexity(PseudoPerplexityPresentation, Evaluation):
    """The loss of single hidden tokens, by length and by the distance to the edge."""

    lengths: list[int] | None = None  # tokens that are read; null: the original length and its doublings to the target
    num_positions: int = 16  # of each text, even, 2 to the shortest length
    num_sequences: int = 16  # documents at most, at least 2

    def __post_init__(self) -> None:
        check_fields(self.lengths, self.num_sequences)
        valid = self.num_positions > 1 and self.num_positions % 2 == 0 and self.num_positions <= min(self.lengths or [self.num_positions])
        rule = "must be an even number from 2 to the shortest length: each position has its counterpart at the other edge"
        require(valid, "num_positions", self.num_positions, rule, "use {key}=16")

    def check(self, reading: Scorer) -> None:
        if not reading.two_sided:
            rule = "needs a model that predicts hidden tokens from both sides: this one predicts a token from those before it"
            raise ConfigError("evaluation", f"[{self.word}]", rule, "use evaluation=[perplexity]")

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        texts, lengths = self._texts(setting)
        positions = [_positions(length, self.num_positions).tolist() for length in lengths]
        return setting.lengths | {"lengths": lengths, "n": len(texts), "positions": positions}

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        texts, lengths = self._texts(setting)
        names = ("pseudo_perplexity", "loss", "standard_error", "by_position", "by_edge", "by_edge_standard_error")
        row: dict[str, list[Any]] = {name: [] for name in names}
        model.network.eval()
        for length in lengths:
            if model.last_position(length - 1) < length - 1:
                figures: tuple[Any, ...] = (None,) * len(names)
            else:
                losses = self._losses(model, setting, texts[:, :length], tick)
                by_text = losses.mean(axis=1, keepdims=True)
                (loss,), (error,) = mean(by_text), standard_error(by_text)
                assert loss is not None, "every token was scored"
                by_edge = (losses + losses[:, ::-1])[:, : self.num_positions // 2] / 2
                figures = (math.exp(loss), loss, error, mean(losses), mean(by_edge), standard_error(by_edge))
            for name, figure in zip(names, figures, strict=True):
                row[name].append(figure)
        return row

    def _losses(
        self, model: LanguageModel, setting: Setting, texts: Int[np.ndarray, "n length"], tick: Callable[[str], None]
    ) -> Float[np.ndarray, "n positions"]:
        length = texts.shape[1]
        hidden = np.tile(np.eye(length, dtype=bool)[_positions(length, self.num_positions)], (len(texts), 1))
        read = texts.repeat(self.num_positions, axis=0)
        rows, losses = max(1, BATCH_TOKENS // length), []
        for i in range(0, len(read), rows):
            tick(f"pseudo-perplexity at {length} tokens, {i}/{len(read)}")
            losses.append(score_hidden(model, read[i : i + rows], hidden[i : i + rows]))
        return np.concatenate(losses).reshape(len(texts), self.num_positions)

    def _texts(self, setting: Setting) -> tuple[Int[np.ndarray, "n length"], list[int]]:
        found, lengths = documents(self.word, setting, self.lengths, (setting.original_length, setting.target_length), self.num_sequences)
        require(
            self.num_positions <= lengths[0],
            "evaluation.pseudo_perplexity.num_positions",
            self.num_positions,
            f"must be at most the shortest length, {lengths[0]}",
            f"use {{key}}={lengths[0] // 2 * 2}",
        )
        return found.tokens, lengths


def _positions(length: int, count: int) -> Int[np.ndarray, " count"]:
    """The middles of `count` equal stretches: for each position there is one equally far from the other edge."""
    first = ((np.arange(count // 2) + 0.5) * length / count).astype(int)
    return np.concatenate([first, length - 1 - first[::-1]])
