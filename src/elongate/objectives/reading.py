"""How a model is measured: the loss of each token of a text, and how likely an answer is after a text. Each objective has its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.models.language_model import LanguageModel

Losses = Float[np.ndarray, "n length"]
Answers = tuple[Float[np.ndarray, "n choices"], Bool[np.ndarray, "n choices"]]
Written = list[Int[np.ndarray, " written"]]


class Reading(ABC):
    """Networks are in evaluation mode when they are read. What a table of positions does not reach to is nan."""

    two_sided: ClassVar[bool] = False  # a token's loss depends on what comes after it: on the length of the text
    writes: ClassVar[bool] = True  # a text can be continued token by token

    @abstractmethod
    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        """In nats; nan for a token that is not scored."""

    @abstractmethod
    def answers(self, model: LanguageModel, prefix: Int[np.ndarray, "n prefix"], choices: Int[np.ndarray, "n choices answer"]) -> Answers:
        """The log-probability of each answer after its prefix, and whether greedy decoding writes it."""

    @abstractmethod
    def continuation(
        self, model: LanguageModel, prefixes: Int[np.ndarray, "n prefix"], num_tokens: int, stop: Callable[[np.ndarray], bool]
    ) -> Written | None:
        """What greedy decoding writes after each prefix: at most `num_tokens`, up to the token at which `stop` says that it is enough.

        `stop` is asked after every token with all that was written so far. None: the positions do not reach that far.
        """


class LeftToRight(Reading):
    """Every token from the ones before it, in one pass."""

    def losses(self, model: LanguageModel, tokens: Int[np.ndarray, "n length"], original_length: int) -> Losses:
        import torch

        from elongate.objectives.cross_entropy import token_cross_entropy

        losses = np.full(tokens.shape, np.nan)
        # The one token that the last row of a table could tell would speak alone for the bin that it begins.
        batch = torch.from_numpy(tokens[:, : model.last_position(tokens.shape[1] - 1) + 1]).to(model.device)
        with torch.no_grad():
            hidden = model.hidden(batch[:, :-1])
        found = token_cross_entropy(model.before_head(hidden), model.head, batch[:, 1:], model.precision)
        losses[:, 1 : batch.shape[1]] = found.double().cpu().numpy()
        return losses

    def answers(self, model: LanguageModel, prefix: Int[np.ndarray, "n prefix"], choices: Int[np.ndarray, "n choices answer"]) -> Answers:
        import torch

        count, num_choices, size = choices.shape
        length = prefix.shape[1] + size - 1
        if model.last_position(length - 1) < length - 1:
            return np.full((count, num_choices), np.nan), np.zeros((count, num_choices), dtype=bool)
        wanted = torch.from_numpy(choices).flatten(0, 1).to(model.device)
        texts = torch.cat([torch.from_numpy(prefix).to(model.device).repeat_interleave(num_choices, dim=0), wanted[:, :-1]], dim=1)
        if not model.layout(texts, None).is_plain:
            # A cache of transformers knows nothing of regions.
            with torch.no_grad(), model.autocast():
                states = model.before_head(model.hidden(texts)[:, -size:])
                return scored_answers(torch.nn.functional.linear(states, *model.head), wanted, num_choices)
        model.reads(length)
        with torch.no_grad(), model.autocast():
            # One prefill serves all choices.
            prefilled = model.network(input_ids=torch.from_numpy(prefix).to(model.device), use_cache=True, logits_to_keep=1)
            logits = prefilled.logits.repeat_interleave(num_choices, dim=0)
            if size > 1:
                cache = prefilled.past_key_values
                cache.batch_repeat_interleave(num_choices)
                rest = model.network(input_ids=wanted[:, :-1], past_key_values=cache, use_cache=True).logits
                logits = torch.cat([logits, rest], dim=1)
        return scored_answers(logits, wanted, num_choices)

    def continuation(
        self, model: LanguageModel, prefixes: Int[np.ndarray, "n prefix"], num_tokens: int, stop: Callable[[np.ndarray], bool]
    ) -> Written | None:
        import torch

        length = prefixes.shape[1] + num_tokens - 1
        if model.last_position(length - 1) < length - 1:
            return None
        if not model.layout(torch.zeros(1, length, dtype=torch.long, device=model.device), None).is_plain:
            # A cache of transformers knows nothing of regions: the whole text, once for each token.
            return greedy(model, prefixes, num_tokens, stop, lambda texts: tokens_after(model, model.hidden(texts)[:, -1]))
        # One reading for the whole text, where it depends on the length: what is in the cache stays as it is.
        model.reads(length)
        cache = None

        def logits(texts: Tensor) -> Tensor:
            nonlocal cache
            unread = texts if cache is None else texts[:, -1:]
            read = model.network(input_ids=unread, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = read.past_key_values
            return read.logits[:, -1]

        return greedy(model, prefixes, num_tokens, stop, logits)


def greedy(
    model: LanguageModel,
    prefixes: Int[np.ndarray, "n prefix"],
    num_tokens: int,
    stop: Callable[[np.ndarray], bool],
    logits: Callable[[Tensor], Tensor],
) -> Written:
    """Takes the likeliest token again and again; `logits` gives those of the token after each text, [rows, length] → [rows, vocab]."""
    import torch

    texts = torch.from_numpy(prefixes).to(model.device)
    ends = np.full(len(prefixes), num_tokens)
    for count in range(1, num_tokens + 1):
        with torch.no_grad(), model.autocast():
            texts = torch.cat([texts, logits(texts).argmax(-1, keepdim=True)], dim=1)
        written = texts[:, prefixes.shape[1] :].cpu().numpy()
        for row in np.flatnonzero(ends >= count):
            if stop(written[row]):
                ends[row] = count
        if (ends <= count).all():
            break
    return [row[:end] for row, end in zip(written, ends, strict=True)]


def tokens_after(model: LanguageModel, states: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocab"]:
    """The logits of the token after each text, from its last hidden state."""
    from torch.nn import functional as F

    return F.linear(model.before_head(states), *model.head)


def scored_answers(logits: Float[Tensor, "rows answer vocab"], wanted: Int[Tensor, "rows answer"], num_choices: int) -> Answers:
    """Rows are the choices of the first text, of the second …"""
    chances = logits.double().log_softmax(-1).gather(-1, wanted[..., None])
    totals = chances.sum((1, 2)).view(-1, num_choices).cpu().numpy()
    return totals, (logits.argmax(-1) == wanted).all(1).view(-1, num_choices).cpu().numpy()
