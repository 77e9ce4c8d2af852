"""A model with the interface of the lm-evaluation-harness: the likelihood of a text, with or without a context, and continuations.

Texts are truncated and split into windows as in the harness's own HFLM (0.4.13): they are cut from the left to the longest text that
the model can read, which is the target length unless a table of positions is shorter. As in HFLM, a text begins with BOS if the
tokenizer adds it (or as `data.add_bos` says), and a text without a context follows the prefix token: BOS, or EOS without one. A
rolling text follows the prefix token and begins with BOS too, so BOS is read twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from lm_eval.api.model import TemplateLM, hash_args
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from elongate.evaluation.harness.tasks import new_tokens
from elongate.evaluation.measurement.samples import Record

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from elongate.evaluation.evaluation import Setting
    from elongate.models.language_model import LanguageModel

BATCH_TOKENS = 8192  # read together in one forward pass

Tokens = list[int]
Encoded = tuple[tuple[str, str], Tokens, Tokens]  # context and continuation, and the tokens of each


@dataclass(frozen=True)
class Question:
    """Choices of equal length that are scored after the same prefix."""

    prefix: Tokens  # empty if the choices alone are longer than the model can read
    choices: dict[str, Tokens]  # by the names of their requests

    @property
    def shape(self) -> tuple[int, ...]:
        """Tokens read in total, tokens per choice, and number of choices."""
        size = len(next(iter(self.choices.values())))
        return (len(self.prefix) + size) * len(self.choices), size, len(self.choices)


@dataclass(frozen=True)
class Window:
    """A part of the text of a request; only its last tokens are scored."""

    name: str
    tokens: Tokens
    num_scored: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Tokens read, and tokens scored."""
        return len(self.tokens), self.num_scored


@dataclass(frozen=True)
class Prompt:
    """The text of a request that the model continues."""

    name: str
    tokens: Tokens  # empty if the continuation leaves no room for a prompt
    num_tokens: int  # of the continuation at most
    until: tuple[str, ...]  # stop sequences

    @property
    def shape(self) -> tuple[Any, ...]:
        """Tokens read and generated in total, tokens generated at most, and stop sequences."""
        return len(self.tokens) + self.num_tokens, self.num_tokens, self.until


Item = TypeVar("Item", Question, Window, Prompt)


class HarnessModel(TemplateLM):
    """Stores every answer as a sample under a digest of its request, so that no request is computed twice."""

    def __init__(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None], prefix_token_id: int | None = None) -> None:
        super().__init__()
        self._prefix_token_id = prefix_token_id
        self._model, self._setting, self._tick = model, setting, tick
        self._asked: dict[str, Instance] = {}
        self.max_length = model.last_position(setting.target_length - 1) + 1
        self.unread: set[str] = set()
        """Tasks with a request that the model cannot read. They get no figures, because those would leave out some requests."""

    @property
    def eot_token_id(self) -> int:
        return self._setting.tokenizer.end_of_document

    @property
    def prefix_token_id(self) -> int:
        known = (self._prefix_token_id, self._setting.tokenizer.bos)
        return next((token for token in known if token is not None), self.eot_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        tokenizer = self._setting.tokenizer
        ids = tokenizer.encode(string)
        if add_special_tokens is None:
            # HFLM adds nothing to a text that spells the prefix token.
            add_special_tokens = not string.startswith(tokenizer.spelled(self.prefix_token_id))
        return (tokenizer.begin(ids) if add_special_tokens else ids).tolist()

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        super().loglikelihood(list(self._left("loglikelihood", requests).values()), disable_tqdm=True)
        return [(_number(record["log_probability"]), record["is_greedy"]) for record in self._found("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        left = self._left("loglikelihood_rolling", requests)
        windows = [window for name, request in left.items() for window in self._windows(name, *request.args)]
        waiting, totals = Counter(window.name for window in windows), dict.fromkeys(left, 0.0)
        self._keep({name: {"log_probability": 0.0} for name in left if not waiting[name]})
        for some in self._batches(windows):
            found = self._totals(np.array([window.tokens for window in some]), some[0].num_scored)
            for window, total in zip(some, found.tolist(), strict=True):
                totals[window.name] += total
                waiting[window.name] -= 1
            names = {window.name for window in some if not waiting[window.name]}
            self._keep({name: {"log_probability": _known(totals[name])} for name in names})
        return [_number(record["log_probability"]) for record in self._found("loglikelihood_rolling", requests)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        prompts = [self._prompt(name, request) for name, request in self._left("generate_until", requests).items()]
        self._keep({prompt.name: {"written": None} for prompt in prompts if not prompt.tokens})
        for some in self._batches([prompt for prompt in prompts if prompt.tokens]):
            prefixes, until = np.array([prompt.tokens for prompt in some]), some[0].until
            written = self._setting.reading.continuation(self._model, prefixes, some[0].num_tokens, self._enough(until))
            texts = [None] * len(some) if written is None else [self._text(tokens, until) for tokens in written]
            self._keep({prompt.name: {"written": text} for prompt, text in zip(some, texts, strict=True)})
        return [record["written"] or "" for record in self._found("generate_until", requests)]

    def _loglikelihood_tokens(self, requests: list[Encoded], **kwargs: Any) -> list[tuple[float, bool]]:
        questions = list(self._questions(requests))
        unread = {"log_probability": None, "is_greedy": False}
        self._keep({name: unread for question in questions if not question.prefix for name in question.choices})
        for some in self._batches([question for question in questions if question.prefix]):
            prefixes = np.array([question.prefix for question in some])
            texts = np.array([list(question.choices.values()) for question in some])
            totals, greedy = self._setting.reading.answers(self._model, prefixes, texts)
            names = [name for question in some for name in question.choices]
            found = zip(names, totals.ravel().tolist(), greedy.ravel().tolist(), strict=True)
            self._keep({name: {"log_probability": _known(total), "is_greedy": is_greedy} for name, total, is_greedy in found})
        return []  # unused: loglikelihood reads the stored samples

    def _questions(self, requests: list[Encoded]) -> Iterator[Question]:
        """Groups the choices of equal length, which share the prefill of their prefix, up to `BATCH_TOKENS` per group."""
        by_prefix: defaultdict[tuple[tuple[int, ...], int], dict[str, Tokens]] = defaultdict(dict)
        for pair, context, tokens in requests:
            prefix = (context + tokens)[-(self.max_length + 1) :][: -len(tokens)]
            by_prefix[tuple(prefix), len(tokens)][_name("loglikelihood", pair)] = tokens
        for (read, size), choices in by_prefix.items():
            most = max(1, BATCH_TOKENS // (len(read) + size))
            for i in range(0, len(choices), most):
                yield Question(list(read), dict(islice(choices.items(), i, i + most)))

    def _windows(self, name: str, text: str) -> Iterator[Window]:
        """The windows of a text, each with as much context before its scored tokens as HFLM uses."""
        windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
        for context, scored in map(make_disjoint_window, windows):
            yield Window(name, context + scored, len(scored))

    def _totals(self, tokens: Int[np.ndarray, "n length"], size: int) -> Float[np.ndarray, " n"]:
        """The log-probability of the last `size` tokens of each window, in nats."""
        reading = self._setting.reading
        losses = reading.losses(self._model, tokens, self._setting.original_length)[:, -size:]
        if np.isnan(losses[:, -1]).all():
            # The last row of a table of positions predicts one more token, which `losses` leaves out.
            losses[:, -1] = -reading.answers(self._model, tokens[:, :-1], tokens[:, None, -1:])[0][:, 0]
        return -losses.sum(axis=1)

    def _prompt(self, name: str, request: Instance) -> Prompt:
        context, settings = request.args
        num_tokens = new_tokens(str(request.task_name), settings)
        until = settings.get("until", [])
        tokenizer = self._setting.tokenizer
        spells_bos = tokenizer.bos is not None and context.startswith(tokenizer.spelled(tokenizer.bos))
        tokens = self.tok_encode(context, add_special_tokens=not spells_bos) or [self.prefix_token_id]
        room = max(0, self.max_length - num_tokens)
        return Prompt(name, tokens[-room:] if room else [], num_tokens, (until,) if isinstance(until, str) else tuple(until))

    def _enough(self, until: tuple[str, ...]) -> Callable[[np.ndarray], bool]:
        def enough(written: np.ndarray) -> bool:
            return bool(written[-1] == self.eot_token_id) or any(end in self._setting.tokenizer.decode(written) for end in until if end)

        return enough

    def _text(self, tokens: np.ndarray, until: tuple[str, ...]) -> str:
        return postprocess_generated_text(self._setting.tokenizer.decode(tokens), stop=list(until), think_end_token=None)

    def _batches(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Batches of items of equal shape, up to `BATCH_TOKENS` tokens. The first number of a shape is the tokens per item."""
        by_shape: defaultdict[tuple[Any, ...], list[Item]] = defaultdict(list)
        for item in items:
            by_shape[item.shape].append(item)
        done = 0
        for (tokens, *_), some in by_shape.items():
            rows = max(1, BATCH_TOKENS // tokens)
            for i in range(0, len(some), rows):
                self._tick(f"{done}/{len(items)}")
                yield some[i : i + rows]
                done += len(some[i : i + rows])

    def _left(self, kind: str, requests: Iterable[Instance]) -> dict[str, Instance]:
        """The requests without a stored answer, by name."""
        named = {_name(kind, request.args): request for request in requests}
        self._asked = {name: request for name, request in named.items() if self._setting.samples.get(name) is None}
        return self._asked

    def _keep(self, records: dict[str, Record]) -> None:
        known = {name: {"task": self._asked[name].task_name, "document": self._asked[name].doc_id} for name in records}
        self._setting.samples.add({name: known[name] | record for name, record in records.items()})

    def _found(self, kind: str, requests: Sequence[Instance]) -> list[Record]:
        records = [self._setting.samples.get(_name(kind, request.args)) or {} for request in requests]
        self.unread |= {str(request.task_name) for request, record in zip(requests, records, strict=True) if None in record.values()}
        return records


def _name(kind: str, asked: tuple[Any, ...]) -> str:
    return f"{kind}/{hash_args(kind, asked)[:16]}"


def _known(value: float) -> float | None:
    """The value, or None for NaN, which JSON cannot represent."""
    return None if value != value else value


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
