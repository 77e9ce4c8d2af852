"""The evaluations of a run: the model after the extension, before it, and extended but not trained."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from elongate.console import say
from elongate.evaluation.evaluation import Setting, add_row, run_evaluation
from elongate.evaluation.measurement.samples import Samples
from elongate.training.base import Origin
from elongate.training.job import Job
from elongate.training.progress import FORWARD_SHARE, remaining, rows
from elongate.training.session import Session

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

_NAMES = {"after": "after the extension", "before": "before the extension", "untuned": "extended but not trained"}


def measure(job: Job, model: LanguageModel, setting: Setting, origin: Origin, session: Session, results: dict[str, Any]) -> None:
    """Runs all evaluations that are not done yet, and writes the results after each of them. Raises `Stopped`."""
    done = results.setdefault("measured", [])
    samples = Samples(session.directory.samples)
    measured = [evaluation for evaluation in job.evaluations if evaluation.is_measured]
    todo = [(row, e) for row in rows(job, origin.is_trained) for e in measured if f"{e.word}/{row}" not in done]
    clock = _Clock([e.num_tokens(results[e.word]) for _, e in todo], results["budget"]["tokens_per_second"] / FORWARD_SHARE)
    current = None
    for number, (row, evaluation) in enumerate(todo):
        if row != current:
            current, model = row, _prepared(job, row, model, setting, origin)
        unknown = tuple(dict.fromkeys(e.word for _, e in todo[number:] if e.num_tokens(results[e.word]) is None))
        say(f"measuring {evaluation.word}, {_NAMES[row]}  {remaining(clock.seconds_left(number), unknown)}")
        of_row = replace(setting, samples=samples.part(evaluation.word, row))
        figures = run_evaluation(evaluation, model, of_row, lambda _: session.stop_if_requested("in the evaluation"))
        add_row(results[evaluation.word], row, figures)
        done.append(f"{evaluation.word}/{row}")
        session.directory.write_results(results)
    for evaluation in job.evaluations:
        results[evaluation.word] |= evaluation.conclude(samples, setting)
    session.directory.write_results(results)


def _prepared(job: Job, row: str, model: LanguageModel, setting: Setting, origin: Origin) -> LanguageModel:
    """The model of the row, with the attention that it is measured with."""
    lengths = setting.original_length, setting.target_length
    if row != "after":
        model = origin.build(job)
    if row == "untuned":
        model.extend(job.strategy, *lengths)
    if row != "before":
        model.attend(job.strategy.measured_attention, *lengths)
    return model


class _Clock:
    """Estimates the time of the evaluations that are left: first from the speed of training, then from their own."""

    def __init__(self, tokens: list[int | None], tokens_per_second: float) -> None:
        self._tokens, self._tokens_per_second, self._began = [count or 0 for count in tokens], tokens_per_second, time.monotonic()

    def seconds_left(self, number: int) -> float:
        """Returns the seconds that the evaluations from this one on will take."""
        read, elapsed = sum(self._tokens[:number]), time.monotonic() - self._began
        return sum(self._tokens[number:]) / (read / elapsed if read and elapsed else self._tokens_per_second)
