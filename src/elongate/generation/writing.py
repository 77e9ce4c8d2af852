"""Continues a prompt token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from elongate.generation.sampling import Sampling
from elongate.scoring.next_logits import next_logits

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel


@dataclass
class Written:
    """What was written after a prompt so far."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""  # without the end of the text, and without the stop string that ended it
    reason: str | None = None  # why it ended: stop (the end of the text or a stop string) or length; None: not yet
    shown: int = 0  # characters that were handed out

    def news(self, stops: Sequence[str]) -> str:
        """The characters that no later token can change, and that were not handed out before."""
        end = len(self.text)
        if self.reason is None:
            # A character of several tokens is not complete, or a stop string has begun.
            end = len(self.text.rstrip("�"))
            begun = (n for stop in stops for n in range(1, len(stop)) if self.text[:end].endswith(stop[:n]))
            end -= max(begun, default=0)
        found = self.text[self.shown : end]
        self.shown += len(found)
        return found


def end_tokens(model: LanguageModel, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a text: those of the checkpoint's configuration, and the tokenizer's."""
    stated = [getattr(config, "eos_token_id", None) for config in (model.config, getattr(model.network, "generation_config", None))]
    listed = [token for one in stated if one is not None for token in (one if isinstance(one, list) else [one])]
    return frozenset({tokenizer.end_of_document, *listed})


def next_tokens(
    model: LanguageModel, prompts: Int[Tensor, "rows prompt"], max_tokens: int, sampling: Sampling
) -> Iterator[Int[Tensor, " rows"]]:
    """Yields the next token of each prompt, at most `max_tokens` times. Prompts of one call have one length."""
    import torch

    length = prompts.shape[1]
    texts = torch.cat([prompts, prompts.new_zeros(len(prompts), max_tokens)], dim=1)
    reader = next_logits(model, length + max_tokens - 1)
    for place in range(length, length + max_tokens):
        # Not around the yield, which would switch gradients off for the caller.
        with torch.no_grad(), model.autocast():
            chosen = sampling.choose(reader(texts[:, :place]), place)
        texts[:, place] = chosen
        yield chosen


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Int[np.ndarray, " prompt"],
    max_tokens: int,
    sampling: Sampling,
    stops: Sequence[str] = (),
) -> Iterator[Written]:
    """Continues a prompt until the end of the text, a stop string or `max_tokens`, and yields what is written after every token."""
    import torch

    written, ends = Written(), end_tokens(model, tokenizer)
    tokens = torch.from_numpy(prompt)[None].to(model.device)
    for chosen in next_tokens(model, tokens, max_tokens, sampling):
        token = int(chosen)
        written.tokens.append(token)
        if token in ends:
            written.reason = "stop"
        else:
            written.text = tokenizer.decode(written.tokens)
            found = [at for stop in stops if (at := written.text.find(stop)) >= 0]
            if found:
                written.text, written.reason = written.text[: min(found)], "stop"
            elif len(written.tokens) == max_tokens:
                written.reason = "length"
        yield written
        if written.reason is not None:
            return
