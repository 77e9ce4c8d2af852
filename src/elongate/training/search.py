"""The search that a position runs on the model before the extension (LongRoPE's factors), once per run.

Candidates are compared on the beginnings of training documents, so the held-out documents stay untouched for the
evaluation. The model was trained on that text in sequences of the original length, equally for every candidate.
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
from elongate.context.position.rotary import Rotary
from elongate.context.position.searchable import Searchable
from elongate.data.sequences import HeldOut, held_out
from elongate.data.tokens import Corpus
from elongate.errors import ConfigError
from elongate.evaluation.measurement.lengths import BATCH_TOKENS
from elongate.training.job import Job
from elongate.training.session import Session

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

NUM_HELD_OUT = 48  # held-out documents for the comparison of the result with YaRN


def check_documents(job: Job, corpus: Corpus, original_length: int) -> None:
    """Raises `ConfigError` if the training text has too few documents as long as the target."""
    position, length = job.strategy.position, job.strategy.target_length
    wanted = position.num_documents(length / original_length) if isinstance(position, Searchable) else 0
    available = len(_documents(corpus, length, wanted)) if wanted else 0
    if available < wanted:
        rule = f"needs {wanted} training documents of at least {length + 1} tokens, found {available}"
        longer = "use longer documents or a shorter context.target_length, or give factors"
        raise ConfigError("context.position.search.num_documents", wanted, rule, f"use {{key}}={available}" if available else longer)


def with_search_result(job: Job, model: LanguageModel, original_length: int, corpus: Corpus, session: Session) -> Job:
    """Returns the job with the result of its position's search, of this start or an earlier one. Raises `Stopped`."""
    position = job.strategy.position
    if not isinstance(position, Searchable):
        return job
    wanted = position.num_documents(job.strategy.target_length / original_length)
    if not wanted:
        return job
    file = session.directory.path / f"{position.word}.json"
    if file.exists():
        say(f"position {position.word}: reusing {file}")
    else:
        documents = _documents(corpus, job.strategy.target_length, wanted)
        held_out_documents = held_out(corpus.validation, job.strategy.target_length + 1, NUM_HELD_OUT)
        say(f"position {position.word}: searching on {len(documents)} training documents of {job.strategy.target_length} tokens")
        with closing(SearchBar(position.word)) as bar:
            bench = _ModelBench(job, model, original_length, (documents, held_out_documents), bar, session)
            result = position.run_search(bench)
        write_json(file, result | {"documents": documents.documents.tolist()})
    return replace(job, strategy=replace(job.strategy, position=position.with_search_result(file)))


def _documents(corpus: Corpus, length: int, count: int) -> HeldOut:
    """Training documents of `length` tokens and the target of the last one."""
    return held_out(corpus.train, length + 1, count)


class _ModelBench:
    """Measures candidates on the model that is to be extended."""

    def __init__(
        self,
        job: Job,
        model: LanguageModel,
        original_length: int,
        documents: tuple[HeldOut, HeldOut],  # of the search, and of the comparison of its result
        bar: SearchBar,
        session: Session,
    ) -> None:
        self.seed = job.seed
        self.report_progress = bar.step
        self._searched, self._held_out = documents
        self._job, self._model, self._session = job, model, session
        self._lengths = original_length, job.strategy.target_length
        model.extend(job.strategy, *self._lengths)
        self.rotary: Rotary
        self.rotary, self.factor = model.positions.rotary.starting_point(*self._lengths)
        model.network.eval()

    def losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        """Returns the mean loss of each training document."""
        return self._mean_losses(position, self._searched)

    def held_out_losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        """Returns the mean loss of each held-out document; there may be none that is long enough."""
        return self._mean_losses(position, self._held_out)

    def _mean_losses(self, position: Position, documents: HeldOut) -> Float[np.ndarray, " documents"]:
        position.act(self._model.positions, *self._lengths)
        scorer, rows = self._job.objective.scorer, max(1, BATCH_TOKENS // self._lengths[1])
        means = []
        for i in range(0, len(documents), rows):
            self._session.stop_if_requested("in the search, which starts again")
            means.append(np.nanmean(scorer.losses(self._model, documents.tokens[i : i + rows], self._lengths[0]), axis=1))
        return np.concatenate([np.empty(0), *means])
