"""The parts of a run, built from the configuration and checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from elongate.context.strategy import Strategy
from elongate.data.source import Source
from elongate.errors import ConfigError, inside, require
from elongate.evaluation.evaluation import Evaluation
from elongate.memory.memory import Memory
from elongate.models.model import Model
from elongate.objectives.objective import Objective
from elongate.training.optimizer.optimizer import Optimizer
from elongate.training.schedule.schedule import Schedule
from elongate.tuning.tuning import Tuning

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import TokenizerConfig
    from elongate.tracking import Tracking


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Clipping, logging and checkpointing."""

    clip_norm: float | None = 1.0  # largest norm of the gradient, above 0; null: no clipping
    log_steps: int = 1  # steps between two lines of metrics.jsonl, at least 1
    checkpoint_steps: int = 100  # steps between two checkpoints, at least 1; every stage ends with one
    keep_checkpoints: int = 2  # newest checkpoints to keep, at least 1; the last of each stage is kept too

    def __post_init__(self) -> None:
        require(
            self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "must be above 0", "use {key}=1, or null for none"
        )
        for name in ("log_steps", "checkpoint_steps", "keep_checkpoints"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1", f"use {{key}}={getattr(Limits, name)}")


@dataclass(frozen=True, kw_only=True)
class Job:
    name: str
    context: str  # the word that was chosen
    seed: int
    steps: int  # optimizer steps of the extension
    batch_tokens: int  # tokens of one optimizer step, at every length
    precision: str  # fp32 or bf16
    device: str  # auto, or a torch device
    compile: bool
    overwrite: bool
    plan: bool  # print what each memory plan needs instead of training
    model: Model
    strategy: Strategy
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    data: Source
    tokenizer: TokenizerConfig
    tuning: Tuning  # of the extension; a base is trained in full
    memory: Memory
    limits: Limits
    evaluations: tuple[Evaluation, ...]
    tracking: Tracking
    config: Mapping[str, Any]  # the resolved configuration of all of the above


def check_together(job: Job) -> None:
    """Raises `ConfigError` for choices that cannot be combined."""
    if job.compile and job.memory.word == "checkpoint":
        rule = "cannot work with memory=checkpoint: torch runs checkpointed layers as they are"
        raise ConfigError("compile", "true", rule, "use {key}=false, or memory=stream")
    if job.objective.rows_meet and job.memory.word in ("stream", "auto"):
        rule = f"cannot work with objective={job.objective.word}: the two directions of a text meet in its loss, and their chunks do not"
        raise ConfigError("memory", job.memory.word, rule, "use {key}=checkpoint")
    if job.strategy.sampling is not None and job.data.isolate_documents:
        rule = "cannot be had with data.isolate_documents=true: each gives a sequence positions of its own"
        raise ConfigError("context/sampling", job.strategy.sampling.word, rule, "use one of the two")
    rate = job.model.attention_dropout
    words = [f"context/attention={job.strategy.attention.word}", f"memory={job.memory.word}"]
    at_odds = [word for word in words if word not in ("context/attention=full", "memory=plain")]
    at_odds += ["data.isolate_documents=true"] * job.data.isolate_documents
    if rate > 0 and at_odds:
        rule = f"needs the whole matrix of attention weights, which {at_odds[0]} never has"
        raise ConfigError("model.attention_dropout", rate, rule, "use {key}=0; other dropouts are not concerned")


def check_able(job: Job, has: frozenset[str], original_length: int) -> Job:
    """The job with its objective bound to the model. Raises `ConfigError` if the model lacks what strategy or objective need."""
    job.strategy.check(has, original_length, job.model.word)
    job.objective.check(has, job.model.word)
    job.memory.check_able(has, job.model.word)
    if job.data.isolate_documents and "regions" not in has:
        rule = f"needs attention in regions, which model={job.model.word} does not have"
        raise ConfigError("data.isolate_documents", "true", rule, "use {key}=false")
    with inside("objective"):
        return replace(job, objective=job.objective.bind(has, original_length))


def check_lengths(job: Job, original_length: int, block_length: int) -> None:
    """Raises `ConfigError` if the lengths contradict each other, or a batch is smaller than one sequence."""
    target = job.strategy.target_length
    rule = f"is below the model's original length of {original_length}: there is nothing to extend"
    require(target >= original_length, "context.target_length", target, rule, f"use {{key}}={4 * original_length}")
    job.strategy.check_length(original_length)
    if job.model.rotary is not None:
        job.strategy.position.check(job.model.rotary, target / original_length)
    lengths = {stage.length for stage in job.strategy.stages(original_length, job.steps)}
    longest = max(lengths)
    with inside("objective"):
        job.objective.check_length(longest, original_length)
        for length in sorted(lengths | ({original_length} if job.model.fresh else set())):
            job.objective.check_blocks(length, original_length, block_length)
    rule = f"is less than one sequence of {longest} tokens"
    require(job.batch_tokens >= longest, "batch_tokens", job.batch_tokens, rule, f"use {{key}}={longest} or more")
