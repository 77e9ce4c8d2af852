"""The training loop over a list of stages.

All randomness depends only on the seed and the step, so a killed run resumes exactly.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from elongate.console import TrainingBar, say, warn
from elongate.context.curriculum.curriculum import Stage
from elongate.data.sequences import Batch, SampledSequences, Sequences
from elongate.data.tokens import Tokens
from elongate.errors import RunError, Stopped
from elongate.memory.memory import Memory
from elongate.models.language_model import LanguageModel
from elongate.peak_memory import peak_memory_bytes, reset_peak_memory
from elongate.training.checkpoints import Checkpoints, Progress, load_checkpoint
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job
from elongate.training.run_directory import MetricsFile, RunDirectory


@dataclass(frozen=True)
class Span:
    """A stage with its first and last step in the run."""

    stage: Stage
    first: int
    last: int


@dataclass(frozen=True)
class Fit:
    """The outcome of training."""

    progress: Progress
    optimizer_state_bytes: int
    proof: dict[str, Any]
    memory: Memory  # the plan that computed the batches


def spans(stages: list[Stage], before: int) -> list[Span]:
    """The stages in order, numbered from step `before` + 1."""
    found = []
    for stage in stages:
        found.append(Span(stage, before + 1, before + stage.steps))
        before += stage.steps
    return found


def fit(
    job: Job,
    model: LanguageModel,
    original_length: int,
    tokens: Tokens,
    stages: list[Stage],
    directory: RunDirectory,
    earlier: list[dict[str, Any]],
    track: Callable[[list[dict[str, Any]]], Callable[[dict[str, Any]], None]],
    interrupt: Interrupt,
) -> Fit:
    """Trains the model through all stages, resuming from the newest sound checkpoint in the directory.

    `earlier` has the metrics of the base. `track` is called once with all existing lines and returns the function that logs a new one.
    Raises `Stopped` after a signal and a checkpoint, and `RunError` for a loss that is not finite.
    """
    start = Progress(earlier[-1]["step"], "", earlier[-1]["tokens"], 0.0, "") if earlier else Progress(0, "", 0, 0.0, "")
    plan = spans(stages, start.step)
    # A table of positions is a parameter. It must have its full length before the optimizer is built.
    proof = model.extend(job.strategy, original_length, max(stage.reach for stage in stages))
    stage_ends = {span.last for span in plan}
    optimizers = job.optimizer.build(model.network)
    peak_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    checkpoints = Checkpoints(directory.checkpoints, job.limits.keep_checkpoints)
    progress = start
    if (newest := checkpoints.newest_sound(warn)) is not None:
        progress = load_checkpoint(newest[1], model.network, optimizers)
        say(f"resuming from {newest[1].name}")
    log = track(directory.keep_metrics(earlier, progress.step))
    # A different order than the base's, in case a stage has the same length.
    first_seed = 1000 * job.seed + bool(earlier)
    memory = job.memory.prepare(model, max(stage.length for stage in stages))
    model.network.train()
    reset_peak_memory(model.device)
    with closing(MetricsFile(directory.metrics)) as metrics:
        for number, span in enumerate(plan):
            proof = model.extend(job.strategy, original_length, span.stage.reach)
            if progress.step >= span.last:
                continue
            count = job.batch_tokens // span.stage.length
            sequences = _sequences(job, tokens, span.stage, first_seed + number)
            bar = TrainingBar(span.stage.name, span.stage.length, progress.step + 1, span.last)
            for step in range(progress.step + 1, span.last + 1):
                began = time.perf_counter()
                torch.manual_seed(1_000_003 * job.seed + step)  # dropout
                share = job.schedule.share(step - start.step, job.steps)
                rate = _set_rates(optimizers, peak_rates, share)
                first = (step - span.first) * count
                batch = sequences.batch(first, count)
                loss = sum(memory.backward(model, example.to(model.device)) for example in job.objective.examples(batch, model))
                norm = _clip(model, job.limits.clip_norm)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    bar.close()
                    raise _not_finite(loss, norm, step, span.stage, first, count, directory)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                seconds = time.perf_counter() - began
                progress = _advance(progress, step, span.stage, batch, seconds)
                if step % job.limits.log_steps == 0 or step == span.last:
                    line = _line(progress, span.stage, batch, loss, rate, norm, seconds, model)
                    metrics.append(line)
                    log(line)
                    bar.step(line)
                stopped_by = interrupt.requested  # read once: a signal during the checkpoint is handled after the next step
                if (step - start.step) % job.limits.checkpoint_steps == 0 or step == span.last or stopped_by:
                    metrics.sync()
                    checkpoints.save(model.network, optimizers, progress, stage_ends)
                if stopped_by:
                    bar.close()
                    raise Stopped(f"stopped by {stopped_by} at step {step}; run the same command to resume")
            bar.close()
    return Fit(progress, _state_bytes(optimizers), proof, memory)


def _sequences(job: Job, tokens: Tokens, stage: Stage, seed: int) -> Sequences | SampledSequences:
    sampling = job.strategy.sampling
    if sampling is None or stage.sampled_below is None:
        return Sequences(tokens, stage.length, seed, job.data.isolate_documents)
    return SampledSequences(tokens, sampling, stage.length, stage.sampled_below, seed)


def _set_rates(optimizers: list[Optimizer], peaks: list[list[float]], share: float) -> float:
    """Sets all learning rates to a share of their peak. Returns the first one."""
    for optimizer, rates in zip(optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
    return peaks[0][0] * share


def _clip(model: LanguageModel, limit: float | None) -> float:
    """Clips the gradient to the limit and returns its norm before clipping."""
    parameters = model.parameters()
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)


def _line(
    progress: Progress, stage: Stage, batch: Batch, loss: float, rate: float, norm: float, seconds: float, model: LanguageModel
) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "step": progress.step,
        "stage": stage.name,
        "length": stage.length,
        "reach": batch.reach,
        "loss": loss,
        "lr": rate,
        "grad_norm": norm,
        "tokens": progress.tokens,
        "tokens_per_second": len(batch.tokens) * stage.length / seconds,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(model.device),
    }


def _advance(progress: Progress, step: int, stage: Stage, batch: Batch, seconds: float) -> Progress:
    consumed = hashlib.sha256(progress.consumed.encode() + batch.tokens.tobytes()).hexdigest()
    tokens = progress.tokens + batch.tokens.shape[0] * stage.length
    return replace(progress, step=step, stage=stage.name, tokens=tokens, seconds=progress.seconds + seconds, consumed=consumed)


def _not_finite(loss: float, norm: float, step: int, stage: Stage, first: int, count: int, directory: RunDirectory) -> RunError:
    kept = sorted(path.name for path in directory.checkpoints.glob("step-*"))
    last = f"the last good checkpoint is {directory.checkpoints / kept[-1]}" if kept else "there is no checkpoint yet"
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    where = f"step {step} (stage {stage.name}, sequences {first} to {first + count - 1} of length {stage.length})"
    return RunError(f"{what} at {where}; {last}; use a lower optimizer.lr or training.clip_norm, or precision=fp32")


def _state_bytes(optimizers: list[Optimizer]) -> int:
    states = (state for optimizer in optimizers for state in optimizer.state.values())
    return sum(value.numel() * value.element_size() for state in states for value in state.values() if torch.is_tensor(value))
