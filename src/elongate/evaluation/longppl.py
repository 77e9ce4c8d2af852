"""LongPPL (Fang et al. 2024, arXiv:2410.23771): perplexity of the tokens for which a long context is needed.

A token is a key token if the long context makes it likelier by more than `min_gain` nats than a short one
does, and if its loss with the long context is below `max_loss`. The evaluator decides that: a strong model
or, without one, each model for itself, so that models are measured on different tokens. The short context is
at most `short_length` tokens before the token, as in `objective=longce`, and `stride` tokens share one. The
authors' code reads up to a stride more than it says: its 4096 and 1024 are short_length=5119 and stride=1024
here. Fails for texts in which nothing is repeated from far back: there are no key tokens then, and no figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from elongate.data.sequences import held_out
from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.measurement.contexts import ENOUGH, check_left_to_right, token_losses
from elongate.evaluation.measurement.samples import Part, digest_of
from elongate.evaluation.measurement.statistics import ratio_of_sums
from elongate.evaluation.presentation.by_length import LongPPLPresentation

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class LongPPL(LongPPLPresentation, Evaluation):
    """Perplexity of the tokens for which a long context is needed."""

    length: int | None = None  # tokens of a text, above short_length; null: the target length
    short_length: int | None = None  # most tokens of a short context, at least 2; null: the original length
    stride: int | None = None  # tokens that share a short context, below short_length; null: a quarter of short_length
    # A run's folder, a transformers folder or hub id, with the same tokenizer; null: each model itself.
    evaluator: str | None = None
    min_gain: float = 2.0  # nats by which the long context must be better
    max_loss: float = 2.0  # nats, with the long context
    num_sequences: int = 48  # documents at most, at least 2

    def __post_init__(self) -> None:
        require(self.length is None or self.length > 2, "length", self.length, "must be at least 3", "use {key}=null")
        require(
            self.short_length is None or self.short_length > 1, "short_length", self.short_length, "must be at least 2", "use {key}=null"
        )
        valid = self.stride is None or 0 < self.stride < (self.short_length or self.stride + 1)
        require(valid, "stride", self.stride, "must be at least 1 and below short_length", "use {key}=null")
        require(self.max_loss > 0, "max_loss", self.max_loss, "must be above 0 nats", "use {key}=2")
        require(self.num_sequences > 1, "num_sequences", self.num_sequences, "must be at least 2", "use {key}=48")

    def reads(self) -> list[Path]:
        folder = None if self.evaluator is None else Path(self.evaluator).expanduser()
        return [folder] if folder is not None and folder.is_dir() else []

    def check(self, reading: Scorer) -> None:
        check_left_to_right(self.word, reading)

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        texts, short, stride = self._texts(setting)
        if self.evaluator is not None:
            # Opened here to refuse it before training, and again when it is needed: it may be too large to keep.
            self._evaluator(setting, texts.shape[1])
        asked = {"short_length": short, "stride": stride, "min_gain": self.min_gain, "max_loss": self.max_loss}
        return {"length": texts.shape[1], "n": len(texts), "evaluator": self.evaluator} | asked

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        texts, short, stride = self._texts(setting)
        losses = token_losses(model, setting, texts, tick)[:, short + 1 :]
        if np.isnan(losses).any():  # a table of positions ends before
            return dict.fromkeys(("longppl", "loss", "standard_error", "key_tokens", "key_ratio", "perplexity"))
        if self.evaluator is None:
            is_key = self._keys(losses, self._short_losses(model, setting, texts, short, stride, tick))
        else:
            is_key = self._evaluator_keys(model, setting, texts, short, stride, tick)
        loss, error = ratio_of_sums((losses * is_key).sum(axis=1), is_key.sum(axis=1)) if is_key.any() else (None, None)
        return {
            "longppl": None if loss is None else math.exp(loss),
            "loss": loss,
            "standard_error": error,
            "key_tokens": int(is_key.sum()),
            "key_ratio": float(is_key.mean()),
            "perplexity": math.exp(losses.mean()),  # of all tokens at the same positions
        }

    def _keys(self, long: Float[np.ndarray, "n scored"], short: Float[np.ndarray, "n scored"]) -> Bool[np.ndarray, "n scored"]:
        return (short - long > self.min_gain) & (long < self.max_loss)

    def _short_losses(
        self,
        model: LanguageModel,
        setting: Setting,
        texts: Int[np.ndarray, "n length"],
        short: int,
        stride: int,
        tick: Callable[[str], None],
    ) -> Float[np.ndarray, "n scored"]:
        """Losses of the tokens after more than `short` others, each predicted from at most the last `short` of these."""
        length = texts.shape[1]
        parts = []
        for first in range(short + 1, length, stride):
            stop = min(first + stride, length)
            parts.append(token_losses(model, setting, texts[:, stop - short - 1 : stop], tick)[:, first - stop :])
        return np.concatenate(parts, axis=1)

    def _evaluator_keys(
        self,
        model: LanguageModel,
        setting: Setting,
        texts: Int[np.ndarray, "n length"],
        short: int,
        stride: int,
        tick: Callable[[str], None],
    ) -> Bool[np.ndarray, "n scored"]:
        """The same for all rows of a run: computed once, and stored with the samples."""
        known = Part(setting.samples.samples, self.word, "evaluator")
        names = [digest_of(text) for text in texts]
        left = [i for i, name in enumerate(names) if known.get(name) is None]
        if left:
            evaluator = self._evaluator(setting, texts.shape[1])
            evaluator.network.to(model.device)
            evaluator.precision = model.precision
            long = token_losses(evaluator, setting, texts[left], tick)[:, short + 1 :]
            is_key = self._keys(long, self._short_losses(evaluator, setting, texts[left], short, stride, tick))
            known.add({names[i]: {"keys": np.flatnonzero(row).tolist()} for i, row in zip(left, is_key, strict=True)})
        found = np.zeros((len(texts), texts.shape[1] - short - 1), dtype=bool)
        for row, name in zip(found, names, strict=True):
            row[(known.get(name) or {})["keys"]] = True
        return found

    def _evaluator(self, setting: Setting, length: int) -> LanguageModel:
        """The evaluator's model. Raises `ConfigError` if it cannot read such texts as it was measured."""
        from elongate.models.compatibility import check_network
        from elongate.models.pretrained import Pretrained, check_vocabulary

        assert self.evaluator is not None, "only called with an evaluator"
        folder = Path(self.evaluator).expanduser() / "model"
        try:
            found = Pretrained(source=str(folder) if folder.is_dir() else self.evaluator).build(setting.tokenizer.vocab_size, 0)
            check_vocabulary(found, setting.tokenizer.vocab_size)
            attention = _attention_of(folder.parent)
            rule = f"was measured with attention {attention}, and is read with full attention here"
            require(attention == "full", "", "", rule, "name another")
            require("causal" in found.has, "", "", "does not read from left to right", "name a causal model")
            check_network(found)
            reaches = found.last_position(length - 1) == length - 1
            require(reaches, "", "", f"has no positions for {length} tokens", "use a shorter evaluation.longppl.length")
        except ConfigError as fault:
            raise ConfigError("evaluation.longppl.evaluator", self.evaluator, fault.rule, fault.remedy) from fault.__cause__
        return found

    def _texts(self, setting: Setting) -> tuple[Int[np.ndarray, "n length"], int, int]:
        """Beginnings of documents; by default the target length is halved until enough documents are that long."""
        length, short = self.length or setting.target_length, self.short_length or setting.original_length
        found = held_out(setting.held_out, length, self.num_sequences)
        while self.length is None and len(found) < min(ENOUGH, self.num_sequences) and length // 2 > short:
            length //= 2
            found = held_out(setting.held_out, length, self.num_sequences)
        if len(found) < 2:
            rule = f"finds {len(found)} held-out documents of {length} tokens, and needs 2"
            remedy = "use a shorter length, longer documents or a larger data.validation_ratio"
            raise ConfigError("evaluation.longppl.length", length, rule, remedy)
        rule = f"is not below the context of the last of {length} tokens: no token has a longer context than that"
        require(short + 1 < length, "evaluation.longppl.short_length", short, rule, f"use {{key}}={max(2, length // 4)}")
        stride = self.stride or max(1, short // 4)
        require(stride < short, "evaluation.longppl.stride", stride, f"must be below short_length, {short}", "use {key}=null")
        return found.tokens, short, stride


def _attention_of(run: Path) -> str:
    """The word of the attention that a run was measured with; full for a folder that is not a run."""
    file = run / "results.json"
    if not file.is_file():
        return "full"
    return json.loads(file.read_text(encoding="utf-8")).get("strategy", {}).get("evaluation_attention", "full")
