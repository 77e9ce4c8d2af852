"""Runs the search of a position on the model before the extension (LongRoPE's factors), once per run.

Candidates are scored on the beginnings of training documents, so the held-out documents remain an unbiased measure of the result.
The weights have seen the training text, in sequences of the original length; that is the same for every candidate.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from elongate.atomic import write_json
from elongate.console import SearchBar, say
from elongate.context.position.position import Position
from elongate.context.position.scaling import Rotary
from elongate.data.sequences import HeldOut, held_out
from elongate.data.tokens import Corpus
from elongate.errors import ConfigError, Stopped
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job
from elongate.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

BATCH_TOKENS = 8192  # scored together
NUM_HELD_OUT = 48


def check_documents(job: Job, corpus: Corpus, original_length: int) -> None:
    """Raises `ConfigError` if the training text has too few documents of the target length."""
    position, length = job.strategy.position, job.strategy.target_length
    wanted = position.num_documents(length / original_length)
    there = len(_documents(corpus, length, wanted)) if wanted else 0
    if there < wanted:
        rule = f"needs so many training documents of {length + 1} tokens to search on, the training text has {there}"
        remedy = f"use {{key}}={there}" if there else "use longer documents or a shorter context.target_length, or give factors"
        raise ConfigError("context.position.search.num_documents", wanted, rule, remedy)


def settled(job: Job, model: LanguageModel, original_length: int, corpus: Corpus, directory: RunDirectory, interrupt: Interrupt) -> Job:
    """The job with the search result of its position, from this or an earlier start of the run."""
    position = job.strategy.position
    factor = job.strategy.target_length / original_length
    if not position.num_documents(factor):
        return job
    file = directory.path / f"{position.word}.json"
    if file.exists():
        say(f"position {position.word}: reusing {file}")
    else:
        with closing(SearchBar(position.word)) as bar:
            bench = _ModelBench(job, model, original_length, corpus, bar, interrupt)
            say(f"position {position.word}: searching on {len(bench.documents)} training documents of {job.strategy.target_length} tokens")
            found = position.searched(bench)
        write_json(file, found | {"documents": bench.documents.documents.tolist()})
    return replace(job, strategy=replace(job.strategy, position=position.found(file)))


def _documents(corpus: Corpus, length: int, count: int) -> HeldOut:
    # The last token is only a target.
    return held_out(corpus.train, length + 1, count)


class _ModelBench:
    def __init__(self, job: Job, model: LanguageModel, original_length: int, corpus: Corpus, bar: SearchBar, interrupt: Interrupt) -> None:
        length = job.strategy.target_length
        self.rotary: Rotary = model.positions.rotary.rotary(original_length)
        self.factor = length / original_length
        self.seed = job.seed
        self.documents = _documents(corpus, length, job.strategy.position.num_documents(self.factor))
        self._held_out = held_out(corpus.validation, length + 1, NUM_HELD_OUT)
        self.told = bar.step
        self._job, self._model, self._interrupt = job, model, interrupt
        self._lengths = original_length, length
        model.extend(job.strategy, *self._lengths)
        model.network.eval()

    def losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        return self._mean_losses(position, self.documents)

    def held_out_losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        return self._mean_losses(position, self._held_out)

    def _mean_losses(self, position: Position, documents: HeldOut) -> Float[np.ndarray, " documents"]:
        position.act(self._model.positions, *self._lengths)
        scorer, rows = self._job.objective.scorer, max(1, BATCH_TOKENS // self._lengths[1])
        means = []
        for i in range(0, len(documents), rows):
            if self._interrupt.requested:
                raise Stopped(f"stopped by {self._interrupt.requested} in the search; run the same command to restart it")
            means.append(np.nanmean(scorer.losses(self._model, documents.tokens[i : i + rows], self._lengths[0]), axis=1))
        return np.concatenate([np.empty(0), *means])
