"""The same tokens predicted from contexts of different lengths, for perplexity and the gain of context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from elongate.data.sequences import HeldOut, begun, held_out
from elongate.errors import ConfigError, require
from elongate.evaluation.measurement.lengths import BATCH_TOKENS, doublings

if TYPE_CHECKING:
    from elongate.evaluation.evaluation import Setting
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

ENOUGH = 8  # documents; with fewer the longest length is dropped


def check_fields(lengths: list[int] | None, num_sequences: int) -> None:
    """Raise `ConfigError` for lengths that do not increase, or for a single document."""
    valid = lengths is None or (bool(lengths) and min(lengths) > 1 and all(a < b for a, b in pairwise(lengths)))
    require(valid, "lengths", lengths, "must be one or more lengths of at least 2, the shortest first", "use {key}=null")
    rule = "must be at least 2: one document gives no standard error"
    require(num_sequences > 1, "num_sequences", num_sequences, rule, "use {key}=48")


def check_left_to_right(word: str, reading: Scorer) -> None:
    """Raise `ConfigError` for a model whose loss of a token depends on the tokens after it."""
    rule = "needs a model that reads from left to right: this one reads both sides, and its loss of a token depends on them"
    require(not reading.two_sided, "evaluation", f"[{word}]", rule, "use evaluation=[curve,pseudo_perplexity]")


def documents(word: str, setting: Setting, asked: list[int] | None, ends: tuple[int, int], count: int) -> tuple[HeldOut, list[int]]:
    """Beginnings of at most `count` held-out documents, and the lengths to read of them.

    The lengths are those asked for or, by default, doublings between the two ends for which there are enough
    documents. Raises `ConfigError`.
    """
    lengths = asked or doublings(*ends)
    found = held_out(setting.held_out, lengths[-1], count)
    while asked is None and len(found) < min(ENOUGH, count) and len(lengths) > 2:
        lengths.pop()
        found = held_out(setting.held_out, lengths[-1], count)
    if len(found) < 2:
        rule = f"finds {len(found)} held-out documents of {lengths[-1]} tokens, and needs 2"
        remedy = "use shorter lengths, longer documents or a larger data.validation_ratio"
        raise ConfigError(f"evaluation.{word}.lengths", lengths, rule, remedy)
    return found, lengths


def token_losses(
    model: LanguageModel, setting: Setting, tokens: Int[np.ndarray, "n length"], tick: Callable[[str], None]
) -> Float[np.ndarray, "n length"]:
    """Losses in nats; nan for the first token, and for tokens beyond the end of a table of positions.

    Every text begins as the tokenizer begins texts: BOS replaces the first token, which is never scored, so that a
    window from the middle of a document is read as a text of the same length.
    """
    tokens = begun(tokens, setting.tokenizer.beginning)
    losses = np.empty(tokens.shape)
    rows = max(1, BATCH_TOKENS // tokens.shape[1])
    model.network.eval()
    for i in range(0, len(tokens), rows):
        tick(f"{tokens.shape[1]} tokens, {i}/{len(tokens)}")
        losses[i : i + rows] = setting.reading.losses(model, tokens[i : i + rows], setting.original_length)
    return losses


def losses_by_context(
    model: LanguageModel, setting: Setting, texts: np.ndarray, lengths: list[int], num_scored: int, tick: Callable[[str], None]
) -> Iterator[Float[np.ndarray, "n scored"]]:
    """Yield, for each length, the losses of the last tokens of the texts if only that many tokens are read."""
    for length in lengths:
        yield token_losses(model, setting, texts[:, -length:], tick)[:, -num_scored:]
