"""The same tokens told from more and more of what comes before them: what perplexity by length and the gain of context are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from elongate.data.sequences import HeldOut, held_out
from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Setting, doublings

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

BATCH_TOKENS = 8192  # read at once
ENOUGH = 8  # documents without which shorter ones are taken


def check_fields(lengths: list[int] | None, num_sequences: int) -> None:
    """Raises `ConfigError`."""
    sound = lengths is None or (bool(lengths) and min(lengths) > 1 and all(a < b for a, b in pairwise(lengths)))
    require(sound, "lengths", lengths, "must be one or more lengths of at least 2, the shortest first", "use {key}=null")
    require(num_sequences > 1, "num_sequences", num_sequences, "must be at least 2: one document says nothing of others", "use {key}=48")


def check_left_to_right(word: str, reading: Scorer) -> None:
    """Raises `ConfigError` for a model whose loss of a token depends on what comes after it."""
    rule = "needs a model that reads from left to right: this one sees both sides, and what it makes of a token depends on them"
    require(not reading.two_sided, "evaluation", f"[{word}]", rule, "use evaluation=[curve,pseudo_perplexity]")


def documents(word: str, setting: Setting, asked: list[int] | None, ends: tuple[int, int], count: int) -> tuple[HeldOut, list[int]]:
    """Beginnings of held-out documents, and the lengths to read of them: those asked for, or doublings from one of the ends to the other.

    By default as far as there are documents. Raises `ConfigError`.
    """
    lengths = asked or doublings(*ends)
    found = held_out(setting.held_out, lengths[-1], count)
    while asked is None and len(found) < min(ENOUGH, count) and len(lengths) > 2:
        lengths.pop()
        found = held_out(setting.held_out, lengths[-1], count)
    if len(found) < 2:
        rule = f"finds {len(found)} held-out documents of {lengths[-1]} tokens, and needs 2"
        raise ConfigError(
            f"evaluation.{word}.lengths", lengths, rule, "use shorter lengths, longer documents or a larger data.validation_ratio"
        )
    return found, lengths


def losses_of(
    model: LanguageModel, setting: Setting, tokens: Int[np.ndarray, "n length"], tick: Callable[[str], None]
) -> Float[np.ndarray, "n length"]:
    """In nats; nan for what is not scored: the first token, and what a table of positions does not reach to."""
    losses = np.empty(tokens.shape)
    rows = max(1, BATCH_TOKENS // tokens.shape[1])
    model.network.eval()
    for i in range(0, len(tokens), rows):
        tick(f"{tokens.shape[1]} tokens, {i}/{len(tokens)}")
        losses[i : i + rows] = setting.reading.losses(model, tokens[i : i + rows], setting.original_length)
    return losses


def by_context(
    model: LanguageModel, setting: Setting, texts: np.ndarray, lengths: list[int], num_scored: int, tick: Callable[[str], None]
) -> Iterator[Float[np.ndarray, "n scored"]]:
    """For each length, losses of the last tokens of the texts, told from texts of so many tokens: they end where the texts end."""
    for length in lengths:
        yield losses_of(model, setting, texts[:, -length:], tick)[:, -num_scored:]
