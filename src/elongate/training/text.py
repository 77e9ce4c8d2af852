"""The text of a run as tokens."""

from __future__ import annotations

from dataclasses import dataclass

from elongate.data.tokenizer.tokenizer import Tokenizer, fit_tokenizer
from elongate.data.tokens import Corpus, load_corpus
from elongate.errors import inside
from elongate.training.job import Job


@dataclass(frozen=True)
class Text:
    """Training and held-out documents, and the tokenizer that turned them into tokens."""

    corpus: Corpus
    tokenizer: Tokenizer


def load_text(job: Job) -> Text:
    """Returns the tokens of the job's data, from the cache if they are there. Never imports torch."""
    tokenizer = fit_tokenizer(job.tokenizer, job.data, needs_mask=job.objective.masks)
    with inside("data"):
        return Text(load_corpus(job.data, tokenizer), tokenizer)
