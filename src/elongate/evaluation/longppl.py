"""LongPPL (Fang et al. 2024, arXiv:2410.23771): perplexity of the tokens for which a long context is needed.

A token is a key token where the long context makes it likelier by more than `min_gain` nats than a short one does, and where it is told
with a loss below `max_loss`. Who decides that is the evaluator: a strong model, or, where none is given, each model for itself, and then
models are measured on different tokens. The short context is at most `short_length` tokens, and `stride` tokens share one; the authors'
code reads up to a stride more than it says, so that its 4096 and 1024 are short_length=5119 and stride=1024 here.
Fails where a text holds nothing that is repeated from far back: there are no key tokens then, and no figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from elongate.data.sequences import held_out
from elongate.errors import ConfigError, require
from elongate.evaluation.contexts import ENOUGH, check_left_to_right, losses_of
from elongate.evaluation.evaluation import Evaluation, Setting, ratio_of_sums
from elongate.evaluation.samples import Part, digest_of

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class LongPPL(Evaluation):
    length: int | None = None  # tokens of a text, above short_length; null: the target length
    short_length: int | None = None  # tokens of a short context at most, at least 2; null: the original length
    stride: int | None = None  # tokens that share a short context, below short_length; null: a quarter of short_length
    evaluator: str | None = None  # a transformers folder or hub id, or a run's folder, of the same tokenizer; null: each model itself
    min_gain: float = 2.0  # nats that the long context tells more
    max_loss: float = 2.0  # nats
    num_sequences: int = 48  # documents at most, at least 2

    word: ClassVar[str] = "longppl"

    def __post_init__(self) -> None:
        require(self.length is None or self.length > 2, "length", self.length, "must be at least 3", "use {key}=null")
        require(
            self.short_length is None or self.short_length > 1, "short_length", self.short_length, "must be at least 2", "use {key}=null"
        )
        sound = self.stride is None or 0 < self.stride < (self.short_length or self.stride + 1)
        require(sound, "stride", self.stride, "must be at least 1 and below short_length", "use {key}=null")
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
            # Opened here to be refused before anything is trained, and again when it is needed: it may be large.
            self._evaluator(setting, texts.shape[1])
        asked = {"short_length": short, "stride": stride, "min_gain": self.min_gain, "max_loss": self.max_loss}
        return {"length": texts.shape[1], "n": len(texts), "evaluator": self.evaluator} | asked

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        texts, short, stride = self._texts(setting)
        losses = losses_of(model, setting, texts, tick)[:, short:]
        if np.isnan(losses).any():  # a table of positions ends before
            return dict.fromkeys(("longppl", "loss", "standard_error", "key_tokens", "key_ratio", "perplexity"))
        if self.evaluator is None:
            is_key = self._keys(losses, self._short(model, setting, texts, short, stride, tick))
        else:
            is_key = self._keys_of_evaluator(model, setting, texts, short, stride, tick)
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

    def _short(
        self,
        model: LanguageModel,
        setting: Setting,
        texts: Int[np.ndarray, "n length"],
        short: int,
        stride: int,
        tick: Callable[[str], None],
    ) -> Float[np.ndarray, "n scored"]:
        """Losses of all tokens but the first `short`, each told from less than `short` tokens before it."""
        length = texts.shape[1]
        parts = []
        for first in range(short, length, stride):
            stop = min(first + stride, length)
            parts.append(losses_of(model, setting, texts[:, stop - short : stop], tick)[:, first - stop :])
        return np.concatenate(parts, axis=1)

    def _keys_of_evaluator(
        self,
        model: LanguageModel,
        setting: Setting,
        texts: Int[np.ndarray, "n length"],
        short: int,
        stride: int,
        tick: Callable[[str], None],
    ) -> Bool[np.ndarray, "n scored"]:
        """The same for all rows of a run: found once, and written down with the samples."""
        known = Part(setting.samples.samples, self.word, "evaluator")
        names = [digest_of(text) for text in texts]
        left = [i for i, name in enumerate(names) if known.get(name) is None]
        if left:
            evaluator = self._evaluator(setting, texts.shape[1])
            evaluator.network.to(model.device)
            evaluator.precision = model.precision
            long = losses_of(evaluator, setting, texts[left], tick)[:, short:]
            is_key = self._keys(long, self._short(evaluator, setting, texts[left], short, stride, tick))
            known.add({names[i]: {"keys": np.flatnonzero(row).tolist()} for i, row in zip(left, is_key, strict=True)})
        found = np.zeros((len(texts), texts.shape[1] - short), dtype=bool)
        for row, name in zip(found, names, strict=True):
            row[(known.get(name) or {})["keys"]] = True
        return found

    def _evaluator(self, setting: Setting, length: int) -> LanguageModel:
        """Raises `ConfigError` for one that cannot read such texts from left to right, or would be read otherwise than it was measured."""
        from elongate.models.pretrained import Pretrained, check_vocabulary

        assert self.evaluator is not None, "there is one"
        folder = Path(self.evaluator).expanduser() / "model"
        try:
            found = Pretrained(source=str(folder) if folder.is_dir() else self.evaluator).build(setting.tokenizer.vocab_size, 0)
            check_vocabulary(found, setting.tokenizer.vocab_size)
            attention = _attention_of(folder.parent)
            require(
                attention == "full",
                "",
                "",
                f"was measured with attention {attention}, and is read with full attention here",
                "name another",
            )
            require("causal" in found.has, "", "", "does not read from left to right", "name a causal model")
            reaches = found.last_position(length - 1) == length - 1
            require(reaches, "", "", f"has no positions for {length} tokens", "use a shorter evaluation.longppl.length")
        except ConfigError as fault:
            raise ConfigError("evaluation.longppl.evaluator", self.evaluator, fault.rule, fault.remedy) from fault.__cause__
        return found

    def _texts(self, setting: Setting) -> tuple[Int[np.ndarray, "n length"], int, int]:
        """Beginnings of documents, the target length or, by default, half of it and so on where fewer are that long."""
        length, short = self.length or setting.target_length, self.short_length or setting.original_length
        found = held_out(setting.held_out, length, self.num_sequences)
        while self.length is None and len(found) < min(ENOUGH, self.num_sequences) and length // 2 > short:
            length //= 2
            found = held_out(setting.held_out, length, self.num_sequences)
        if len(found) < 2:
            rule = f"finds {len(found)} held-out documents of {length} tokens, and needs 2"
            remedy = "use a shorter length, longer documents or a larger data.validation_ratio"
            raise ConfigError("evaluation.longppl.length", length, rule, remedy)
        rule = f"is not below the length of {length} tokens: no token has a longer context than that"
        require(short < length, "evaluation.longppl.short_length", short, rule, f"use {{key}}={max(2, length // 4)}")
        stride = self.stride or max(1, short // 4)
        require(stride < short, "evaluation.longppl.stride", stride, f"must be below short_length, {short}", "use {key}=null")
        return found.tokens, short, stride


def _attention_of(run: Path) -> str:
    """The word of the attention that a run was measured with; full for a folder that is none."""
    file = run / "results.json"
    return (
        json.loads(file.read_text(encoding="utf-8")).get("strategy", {}).get("evaluation_attention", "full") if file.is_file() else "full"
    )
