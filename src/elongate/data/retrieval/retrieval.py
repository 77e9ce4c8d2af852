"""Texts to learn retrieval from: the tasks of `evaluation=retrieval` with other numbers and words, in ordinary text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from elongate.data.files import digest
from elongate.data.retrieval.sample import DoesNotFit, Place, build_sample
from elongate.data.retrieval.tasks import TASKS
from elongate.data.source import Document, Source
from elongate.data.stdlib import Stdlib
from elongate.errors import ConfigError, require

HAYSTACK = 2_000_000  # characters of ordinary text
MAX_CHARACTERS = HAYSTACK // 2  # of a document, so that its haystack can start at many places
_FORMAT = 2  # of the texts; raise it whenever the same settings give other texts


@dataclass(kw_only=True)
class Retrieval(Source):
    """Each document is a text with needles, the question and the answer. Tasks alternate; depths are uniform."""

    tasks: list[str] | None = None  # null: all
    num_characters: int = 4096  # of a document, including the answer
    num_documents: int = 2000  # at least 2
    seed: int = 0  # of the texts; their order in training depends on the seed of the run

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [task for task in self.tasks or [] if task not in TASKS]
        sound = self.tasks is None or (bool(self.tasks) and not unknown)
        require(sound, "tasks", self.tasks, f"must be among {', '.join(TASKS)}", "use {key}=null for all")
        rule = "must be at least 2: one is held out"
        require(self.num_documents > 1, "num_documents", self.num_documents, rule, "use {key}=2000")
        rule = f"must be between 1 and {MAX_CHARACTERS}"
        valid = 0 < self.num_characters <= MAX_CHARACTERS
        require(valid, "num_characters", self.num_characters, rule, "use {key}=4096")

    def documents(self) -> Iterator[Document]:
        haystack, tasks = _characters(self._haystack()), self.tasks or list(TASKS)
        for number in range(self.num_documents):
            depth = float(np.random.default_rng((self.seed, number)).random())
            place = Place(tasks[number % len(tasks)], self.num_characters, depth, number, self.seed, "train")
            try:
                sample = build_sample(place, _characters, haystack)
            except DoesNotFit as fault:
                rule = f"is too small for {place.task}, which needs {fault.shortest} characters"
                remedy = f"use {{key}}={2 * fault.shortest} or more, or other tasks"
                raise ConfigError("num_characters", self.num_characters, rule, remedy) from None
            text = "".join(map(chr, [*sample.prefix, *sample.answers[0]]))
            yield Document(f"{place.task} {number}", text)

    def fingerprint(self) -> str:
        inherited = {field.name for field in fields(Source)}
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in inherited}
        return digest([], "retrieval", _FORMAT, settings, Stdlib().fingerprint())

    def _haystack(self) -> str:
        text = ""
        for document in Stdlib().documents():
            text += document.text
            if len(text) > HAYSTACK:
                break
        return text[:HAYSTACK]


def _characters(text: str) -> Any:
    return np.array([ord(character) for character in text], dtype=np.int64)
