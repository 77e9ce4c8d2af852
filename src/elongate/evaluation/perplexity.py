"""Perplexity by length, in a named form: published perplexities are computed in ways that are not comparable.

- `same_tokens`: the same tokens at every length, the last ones of each text, predicted from that many tokens.
  What a longer context buys.
- `strided`: windows of that length, each starting `stride` tokens later; every token is scored once, in the
  first window that contains it.
- `window_mean`: the same windows, and the mean of their means, in which a token of the first window has a
  smaller weight than others.

In all of them losses are summed over tokens in float64; the standard error is that of a ratio of sums over
documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from elongate.data.sequences import held_out
from elongate.errors import require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.measurement.contexts import check_fields, check_left_to_right, documents, token_losses
from elongate.evaluation.measurement.statistics import ratio_of_sums
from elongate.evaluation.presentation.by_length import PerplexityPresentation

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

FORMS = ("same_tokens", "strided", "window_mean")


@dataclass(frozen=True, kw_only=True)
class Perplexity(PerplexityPresentation, Evaluation):
    """The perplexity of held-out documents by the number of tokens that are read."""

    form: str = "same_tokens"  # same_tokens, strided or window_mean
    lengths: list[int] | None = None  # tokens read; null: the original length and its doublings to twice the target
    stride: int | None = None  # scored tokens at the end of a text or window; null: a quarter of the shortest length
    num_sequences: int = 48  # documents at most, at least 2

    def __post_init__(self) -> None:
        require(self.form in FORMS, "form", self.form, f"must be one of {', '.join(FORMS)}", "use {key}=same_tokens")
        check_fields(self.lengths, self.num_sequences)
        valid = self.stride is None or 0 < self.stride < (self.lengths or [self.stride + 1])[0]
        require(valid, "stride", self.stride, "must be at least 1 and below the shortest length", "use {key}=null")

    def check(self, reading: Scorer) -> None:
        check_left_to_right(self.word, reading)

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        texts, lengths, stride = self._texts(setting)
        return setting.lengths | {"lengths": lengths, "form": self.form, "stride": stride, "n": len(texts), "text_length": texts.shape[1]}

    def num_tokens(self, header: dict[str, Any]) -> int:
        windows = [self._windows(header["text_length"], length, header["stride"]) for length in header["lengths"]]
        return int(header["n"]) * sum(stop - start for spans in windows for start, stop, _ in spans)

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        texts, lengths, stride = self._texts(setting)
        figures: dict[str, list[Any]] = {name: [] for name in ("loss", "standard_error", "perplexity", "bits_per_byte", "tokens")}
        for length in lengths:
            windows = self._windows(texts.shape[1], length, stride)
            # [window][document, token that is scored in it]
            found = [token_losses(model, setting, texts[:, start:stop], tick)[:, -new:] for start, stop, new in windows]
            count = sum(losses.size for losses in found)
            if any(np.isnan(losses).any() for losses in found):
                for name, values in figures.items():
                    values.append(count if name == "tokens" else None)
                continue
            loss, error = self._mean(found)
            size = sum(_bytes(setting.tokenizer, texts[:, :stop], new) for _, stop, new in windows)
            bits = sum(losses.sum() for losses in found) / math.log(2) / size
            for name, value in zip(figures, (loss, error, math.exp(loss), float(bits), count), strict=True):
                figures[name].append(value)
        return figures

    def _mean(self, found: list[Float[np.ndarray, "n new"]]) -> tuple[float, float | None]:
        if self.form == "window_mean":
            means = np.stack([losses.mean(axis=1) for losses in found], axis=1)
            sums, counts = means.sum(axis=1), np.full(len(means), means.shape[1])
        else:
            sums = np.sum([losses.sum(axis=1) for losses in found], axis=0)
            counts = np.full(len(sums), sum(losses.shape[1] for losses in found))
        return ratio_of_sums(sums, counts)

    def _windows(self, text: int, length: int, stride: int) -> list[tuple[int, int, int]]:
        """First token, end, and how many tokens at the end of each window are scored."""
        if self.form == "same_tokens":
            return [(text - length, text, stride)]
        starts = range(0, text - length + 1, stride)
        return [(start, start + length, stride if start else length - 1) for start in starts]

    def _texts(self, setting: Setting) -> tuple[np.ndarray, list[int], int]:
        found, lengths = documents(
            self.word, setting, self.lengths, (setting.original_length, 2 * setting.target_length), self.num_sequences
        )
        stride = self.stride or max(1, lengths[0] // 4)
        texts = found.tokens
        if self.form != "same_tokens":
            # Longer than the longest window, so that every length has several windows.
            longer = held_out(setting.held_out, 2 * lengths[-1], self.num_sequences)
            texts = longer.tokens if len(longer) > 1 else texts
        return texts, lengths, stride


def _bytes(tokenizer: Tokenizer, texts: np.ndarray, new: int) -> int:
    """UTF-8 bytes of the last tokens of all texts."""
    return sum(tokenizer.num_bytes(row) - tokenizer.num_bytes(row[:-new]) for row in texts)
