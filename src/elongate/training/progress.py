"""The plan of a run in one line, and estimates of the time until it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elongate.console import approximate
from elongate.context.curriculum.curriculum import Stage
from elongate.training.job import Job

FORWARD_SHARE = 1 / 3  # of a training step: a backward pass costs about two forward passes


def describe_steps(job: Job) -> str:
    """Returns all steps of the run, with their learning rates and lengths, in one line."""
    base = job.strategy.curriculum.base if job.model.fresh else None
    extension = f"{job.steps} at lr {job.optimizer.lr:g}, {_describe_lengths(job)}"
    if base is None:
        return f"{_plural(job.steps, 'step')}: {extension}"
    rate = f"lr {base.lr_ratio * job.optimizer.lr:g}"
    total = _plural(base.steps + job.steps, "step")
    return f"{total}: base {base.steps} at {rate}, length {job.model.original_length}; extension {extension}"


@dataclass(frozen=True)
class Forecast:
    """The work that follows the steps of one `fit`."""

    batch_tokens: int  # of one step
    steps: int  # of training
    evaluation_tokens: int  # tokens that the evaluations read
    unknown: tuple[str, ...]  # evaluations that do not report how many tokens they read

    def remaining(self, steps: int, seconds_per_step: float) -> str:
        """Returns the time until the run is finished, for that many steps of this `fit`, in words."""
        evaluation_steps = self.evaluation_tokens / self.batch_tokens * FORWARD_SHARE
        return remaining((steps + self.steps + evaluation_steps) * seconds_per_step, self.unknown)


def forecast(job: Job, headers: dict[str, Any], has_base: bool, steps: int = 0) -> Forecast:
    """Returns the work of the evaluations, if their headers are known, and of that many steps before them."""
    num_rows = len(rows(job, has_base))
    tokens = {e.word: e.num_tokens(headers[e.word]) for e in job.evaluations if e.is_measured and headers}
    unknown = tuple(word for word, count in tokens.items() if count is None)
    return Forecast(job.batch_tokens, steps, num_rows * sum(count or 0 for count in tokens.values()), unknown)


def remaining(seconds: float, unknown: tuple[str, ...]) -> str:
    """Returns `about 4 min left`, and the evaluations whose time is not included."""
    more = f" and {', '.join(unknown)}" if unknown else ""
    return f"about {approximate(seconds)}{more} left"


def rows(job: Job, has_base: bool) -> tuple[str, ...]:
    """Returns the models that are measured: after the extension, before it, and extended but not trained."""
    if not has_base:
        return ("after",)
    return ("after", "before", "untuned") if job.strategy.acts_untrained else ("after", "before")


def _describe_lengths(job: Job) -> str:
    if job.model.original_length is None:
        return f"length up to {job.strategy.target_length}"  # the stages are known once the checkpoint is open
    stages = job.strategy.stages(job.model.original_length, job.steps)
    lengths = list(dict.fromkeys(stage.length for stage in stages))
    text = f"length{'s' if len(lengths) > 1 else ''} {', '.join(map(str, lengths))}"
    return f"{text}, positions below {_reach(stages)}" if job.strategy.sampling is not None else text


def _reach(stages: list[Stage]) -> int:
    return max(stage.reach for stage in stages)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
