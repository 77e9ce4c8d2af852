"""The training loop: forward, backward and step, through the stages of a curriculum, resumable after every step.

All randomness depends only on the seed and the step, so a killed run resumes exactly.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import Any

import torch
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from elongate.console import TrainingBar, say, warn
from elongate.context.curriculum.curriculum import Stage
from elongate.data.arrangement import arrange, arrange_sampled
from elongate.data.sequences import Batch, SequenceList
from elongate.data.tokens import Tokens
from elongate.errors import RunError, Stopped
from elongate.evaluation.evaluation import Setting
from elongate.memory.memory import Memory
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example
from elongate.peak_memory import peak_memory_bytes, reset_peak_memory
from elongate.training.checkpoints import Checkpoints, Progress, load_checkpoint
from elongate.training.following import Following
from elongate.training.job import Job
from elongate.training.progress import Forecast
from elongate.training.read_ahead import read_ahead
from elongate.training.run_directory import Lines, MetricsFile, RunDirectory
from elongate.training.session import Session
from elongate.training.utilization import Utilization

# Devices whose batches are built while a step runs. On a CPU that takes 0.8 ms of a step of a second, and a core.
_READ_AHEAD = ("cuda",)


@dataclass(frozen=True)
class Span:
    """A stage and its steps, counted from the first step of the base; both ends are included."""

    stage: Stage
    first: int
    last: int


@dataclass(frozen=True)
class Course:
    """The training of one call of `fit`."""

    original_length: int
    stages: list[Stage]
    tokens: Tokens
    earlier: Lines  # metrics of the base; empty for the base itself and for a run without one
    forecast: Forecast  # what follows
    setting: Setting | None = None  # of evaluations during the training; None: there are none

    @property
    def start(self) -> Progress:
        """The progress before the first step."""
        if not self.earlier:
            return Progress(0, "", 0, 0.0, "")
        return Progress(self.earlier[-1]["step"], "", self.earlier[-1]["tokens"], 0.0, "")

    @property
    def reach(self) -> int:
        """The tokens that the positions reach to in the longest stage."""
        return max(stage.reach for stage in self.stages)

    def spans(self) -> list[Span]:
        """The stages one after the other, after the steps of the base."""
        spans, before = [], self.start.step
        for stage in self.stages:
            spans.append(Span(stage, before + 1, before + stage.steps))
            before += stage.steps
        return spans


@dataclass(frozen=True)
class Fit:
    """The outcome of a training."""

    progress: Progress
    optimizer_state_bytes: int
    evidence: dict[str, Any]  # that the strategy is active, at the length of the last stage
    memory: Memory  # the plan that computed the batches
    following: Following  # the evaluations during the training
    stages: list[Stage]  # with the steps that they were trained for: fewer after early stopping


def fit(job: Job, model: LanguageModel, course: Course, session: Session) -> Fit:
    """Trains the model through all stages, from the newest undamaged checkpoint of the session's directory on.

    Raises `Stopped` after a checkpoint when a signal came, `RunError` for a loss that is not finite.
    """
    options, start, spans = job.training, course.start, course.spans()
    # A learned position table is a parameter: it must have its full length before the optimizer is built.
    evidence = model.extend(job.strategy, course.original_length, course.reach)
    optimizers = job.optimizer.build(model.network)
    peak_rates = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]
    checkpoints = Checkpoints(session.directory.checkpoints, options.keep_checkpoints)
    resumed = progress = _resume(checkpoints, job, session.directory, model, optimizers) or start
    session.tracker.start(known := session.directory.keep_metrics(course.earlier, progress.step))
    following = Following.resumed(job, course.setting, known)
    memory = job.memory.prepare(model, max(stage.length for stage in course.stages))
    model.network.train()
    reset_peak_memory(model.device)
    with closing(MetricsFile(session.directory.metrics)) as metrics:
        for number, span in enumerate(spans):
            evidence = model.extend(job.strategy, course.original_length, span.stage.reach)
            if progress.step >= span.last or following.is_over:
                continue
            sequences, utilization = stage_sequences(job, course, number), Utilization.of(model, span.stage.length)
            rows, steps = job.batch_tokens // span.stage.length, range(progress.step + 1, span.last + 1)
            bar, batches = TrainingBar(span.stage.name, span.stage.length, steps[0], span.last), _read(job, model, sequences, span, steps)
            with closing(bar), closing(batches):
                for step in takewhile(lambda _: not following.is_over, steps):
                    began = time.perf_counter()
                    torch.manual_seed(1_000_003 * job.seed + step)  # dropout
                    rate = _set_rates(optimizers, peak_rates, job.schedule.share(step - start.step, job.steps))
                    batch, examples = next(batches)
                    loss = sum(memory.backward(model, example) for example in examples)
                    norm = _clip(model, options.clip_norm)
                    if not (math.isfinite(loss) and math.isfinite(norm)):
                        raise _not_finite(loss, norm, step, span, rows, session.directory)
                    # Where weights are rounded at random, whatever dropout has drawn: plans draw different numbers.
                    torch.manual_seed(-1_000_003 * job.seed - step)
                    for optimizer in optimizers:
                        optimizer.step()
                        optimizer.zero_grad()
                    seconds = time.perf_counter() - began
                    progress = _advance(progress, step, span.stage, batch, seconds)
                    is_due = following.is_due(step - start.step, step == spans[-1].last)
                    if step % options.log_steps == 0 or step == span.last or is_due:
                        figures = {"loss": loss, "lr": job.optimizer.step_size(rate, step - start.step), "grad_norm": norm}
                        line = _metrics(
                            progress, span.stage, batch, figures | utilization.figures(examples, seconds), seconds, model.device
                        )
                        line = following.measured(model, line, span.stage.reach) if is_due else line
                        metrics.append(line)
                        session.tracker.log(line)
                        bar.step(line, _remaining(course, progress, resumed))
                    stopped_by = session.interrupt.requested  # read once: a signal during the checkpoint is noticed after the next step
                    is_wanted = (step - start.step) % options.checkpoint_steps == 0 or step in (span.last, following.best_step)
                    if is_wanted or following.is_over or stopped_by:
                        metrics.sync()
                        checkpoints.save(model.network, optimizers, progress, {span.last for span in spans}, following.best_step)
                    _stop_if(stopped_by, step)
    _restore_best(following.best_step, progress, checkpoints, model, optimizers)
    return Fit(progress, _state_bytes(optimizers), evidence, memory, following, _trained(spans, progress))


def _restore_best(
    best: int | None, progress: Progress, checkpoints: Checkpoints, model: LanguageModel, optimizers: list[Optimizer]
) -> None:
    if best is not None and best != progress.step:
        load_checkpoint(checkpoints.undamaged(best), model.network, optimizers)


def _trained(spans: list[Span], progress: Progress) -> list[Stage]:
    return [replace(span.stage, steps=min(span.last, progress.step) - span.first + 1) for span in spans if span.first <= progress.step]


def _stop_if(signal: str | None, step: int) -> None:
    if signal:
        raise Stopped(f"stopped by {signal} at step {step}; run the same command to resume")


def _resume(
    checkpoints: Checkpoints, job: Job, directory: RunDirectory, model: LanguageModel, optimizers: list[Optimizer]
) -> Progress | None:
    """Loads the named checkpoint, or the newest usable one. Returns its progress, or None if there is none."""
    name = job.training.resume_from
    path = checkpoints.newest_undamaged(warn, _last_step(directory, job)) if name is None else checkpoints.named(name)
    if path is None:
        return None
    progress = load_checkpoint(path, model.network, optimizers)
    say(f"resuming from {path.name}")
    return progress


def _last_step(directory: RunDirectory, job: Job) -> int:
    """The last step whose metrics are known, if one in `training.log_steps` is logged, or as many as in the file."""
    logged = [line["step"] for line in directory.read_metrics()]
    between = [after - before for before, after in pairwise(logged)]
    return logged[-1] + max([job.training.log_steps, *between]) - 1 if logged else 0


def stage_sequences(job: Job, course: Course, number: int) -> SequenceList:
    """The sequences of the stage of that number. A stage of the base's length has another order than the base."""
    stage, sampling = course.stages[number], job.strategy.sampling
    seed = 1000 * job.seed + bool(course.earlier) + number
    if sampling is None or stage.sampled_below is None:
        return arrange(job.data, course.tokens, stage.length, seed)
    return arrange_sampled(job.data, course.tokens, sampling, stage.length, stage.sampled_below, seed)


def _read(job: Job, model: LanguageModel, sequences: SequenceList, span: Span, steps: range) -> Generator[tuple[Batch, list[Example]]]:
    """The batches of the steps and what is learned from them, on the device.

    For a GPU, the next batch is built and copied while a step runs, unless the objective runs the model for it.
    """
    rows = job.batch_tokens // span.stage.length

    def build(step: int) -> tuple[Batch, list[Example]]:
        batch = sequences.batch((step - span.first) * rows, rows)
        return batch, [example.to(model.device) for example in job.objective.examples(batch, model)]

    ahead = model.device.type in _READ_AHEAD and not job.objective.runs_model
    yield from read_ahead(build, steps) if ahead else map(build, steps)


def _set_rates(optimizers: list[Optimizer], peaks: list[list[float]], share: float) -> float:
    """Sets all learning rates to a share of their peaks and returns the first."""
    for optimizer, rates in zip(optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            if torch.is_tensor(group["lr"]):
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share
    return peaks[0][0] * share


def _clip(model: LanguageModel, limit: float | None) -> float:
    """Scales the gradient down to the limit and returns the norm that it had before."""
    parameters = model.parameters()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(gradient.dtype is torch.bfloat16 for gradient in gradients):
        # Torch would round the norm of each gradient to bfloat16.
        gradients = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    norm = get_total_norm(gradients)
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)


def _metrics(
    progress: Progress, stage: Stage, batch: Batch, figures: dict[str, float], seconds: float, device: torch.device
) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "step": progress.step,
        "stage": stage.name,
        "length": stage.length,
        "reach": batch.reach,
        **figures,
        "tokens": progress.tokens,
        "tokens_per_second": len(batch.tokens) * stage.length / seconds,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def _advance(progress: Progress, step: int, stage: Stage, batch: Batch, seconds: float) -> Progress:
    consumed = hashlib.sha256(progress.consumed.encode() + batch.tokens.tobytes()).hexdigest()
    tokens = progress.tokens + batch.tokens.shape[0] * stage.length
    return replace(progress, step=step, stage=stage.name, tokens=tokens, seconds=progress.seconds + seconds, consumed=consumed)


def _remaining(course: Course, progress: Progress, resumed: Progress) -> str:
    """The time until the run is finished, at the mean speed since the start of this process."""
    seconds_per_step = (progress.seconds - resumed.seconds) / (progress.step - resumed.step)
    return course.forecast.remaining(course.spans()[-1].last - progress.step, seconds_per_step)


def _not_finite(loss: float, norm: float, step: int, span: Span, rows: int, directory: RunDirectory) -> RunError:
    names = sorted(path.name for path in directory.checkpoints.glob("step-*"))
    newest = f"the newest checkpoint is {directory.checkpoints / names[-1]}" if names else "there is no checkpoint yet"
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    first, stage = (step - span.first) * rows, span.stage
    where = f"step {step} (stage {stage.name}, sequences {first} to {first + rows - 1} of length {stage.length})"
    return RunError(f"{what} at {where}; {newest}; use a lower optimizer.lr or training.clip_norm, or precision=fp32")


def _state_bytes(optimizers: list[Optimizer]) -> int:
    states = (state for optimizer in optimizers for state in optimizer.state_dict()["state"].values())
    return sum(value.numel() * value.element_size() for state in states for value in state.values() if torch.is_tensor(value))
