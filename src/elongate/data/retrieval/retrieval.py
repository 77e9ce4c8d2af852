"""Texts to learn retrieval from: what `evaluation=retrieval` asks, with other numbers and other words, in ordinary text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from elongate.data.files import digest
from elongate.data.retrieval.sample import DoesNotFit, Place, made
from elongate.data.retrieval.tasks import TASKS
from elongate.data.source import Document, Source
from elongate.data.stdlib import Stdlib
from elongate.errors import ConfigError, require

HAYSTACK = 2_000_000  # characters of ordinary text
_FORMAT = 1  # raised whenever the same settings give other texts


@dataclass(kw_only=True)
class Retrieval(Source):
    """A document is a text with its needles, the question and the answer; tasks take turns, depths are drawn evenly."""

    tasks: list[str] | None = None  # null: all
    length: int = 4096  # characters of a document, the answer included: what a tokenizer makes of them is not known here
    num_documents: int = 2000  # at least 2
    seed: int = 0  # of the texts, beside which the seed of the run decides their order

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [task for task in self.tasks or [] if task not in TASKS]
        sound = self.tasks is None or (bool(self.tasks) and not unknown)
        require(sound, "tasks", self.tasks, f"must be of {', '.join(TASKS)}", "use {key}=null for all")
        require(self.num_documents > 1, "num_documents", self.num_documents, "must be at least 2: one is held out", "use {key}=2000")
        require(0 < self.length < HAYSTACK // 2, "length", self.length, f"must be between 1 and {HAYSTACK // 2}", "use {key}=4096")

    def documents(self) -> Iterator[Document]:
        haystack, tasks = _characters(self._haystack()), self.tasks or list(TASKS)
        for number in range(self.num_documents):
            depth = float(np.random.default_rng((self.seed, number)).random())
            place = Place(tasks[number % len(tasks)], self.length, depth, number, self.seed, "train")
            try:
                sample = made(place, _characters, haystack)
            except DoesNotFit as fault:
                rule = f"is too short for {place.task}, which takes {fault.shortest} characters"
                raise ConfigError("length", self.length, rule, f"use {{key}}={2 * fault.shortest} or more, or other tasks") from None
            text = "".join(map(chr, [*sample.prefix, *sample.answers[0]]))
            yield Document(f"{place.task} {number}", text)

    def fingerprint(self) -> str:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("validation_ratio", "isolate_documents", "cache")}
        return digest([], "retrieval", _FORMAT, own, Stdlib().fingerprint())

    def _haystack(self) -> str:
        text = ""
        for document in Stdlib().documents():
            text += document.text
            if len(text) > HAYSTACK:
                break
        return text[:HAYSTACK]


def _characters(text: str) -> Any:
    return np.array([ord(character) for character in text], dtype=np.int64)
