"""The one place where objects are made from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from elongate.config import build, build_class, scalars
from elongate.context.strategy import Strategy
from elongate.data.source import Source
from elongate.data.tokenizer.pretrained import Pretrained as PretrainedTokenizer
from elongate.data.tokenizer.tokenizer import TokenizerConfig
from elongate.errors import ConfigError
from elongate.evaluation.evaluation import Evaluation
from elongate.memory.memory import Memory
from elongate.models.model import Model
from elongate.objectives.objective import ObjectiveChoice
from elongate.tracking import Tracking
from elongate.training.job import Job, Limits, check_able, check_lengths, check_together
from elongate.training.optimizer.optimizer import Optimizer
from elongate.training.schedule.schedule import Schedule
from elongate.tuning.tuning import Tuning

GROUPS = (
    "model",
    "context",
    "objective",
    "optimizer",
    "schedule",
    "data",
    "tokenizer",
    "tuning",
    "memory",
    "evaluation",
    "tracking",
    "training",
)


def build_job(config: DictConfig, choices: Mapping[str, Any]) -> Job:
    """Everything that a run is made of. `choices` are the words that were chosen, by group. Raises `ConfigError`; never imports torch."""
    top = scalars(config, GROUPS)
    model = build(config.model, "model", Model)
    job = Job(
        name=top.name,
        context=str(choices["context"]),
        seed=top.seed,
        steps=top.steps,
        batch_tokens=top.batch_tokens,
        precision=top.precision,
        device=top.device,
        compile=top.compile,
        overwrite=top.overwrite,
        plan=top.plan,
        model=model,
        strategy=build(config.context, "context", Strategy),
        objective=build(config.objective, "objective", ObjectiveChoice),
        optimizer=build(config.optimizer, "optimizer", Optimizer),
        schedule=build(config.schedule, "schedule", Schedule),
        data=build(config.data, "data", Source),
        tokenizer=pretrained_tokenizer(build(config.tokenizer, "tokenizer"), model),
        tuning=build(config.tuning, "tuning", Tuning),
        memory=build(config.memory, "memory", Memory),
        limits=build_class(Limits, config.training, "training"),
        evaluations=build_evaluations(config.evaluation),
        tracking=build(config.tracking, "tracking", Tracking),
        config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]  # a mapping, since the configuration is one
    )
    if model.has is not None and model.original_length is not None:
        job = check_able(job, model.has, model.original_length)
        for evaluation in job.evaluations:
            evaluation.check(job.objective.scorer)
    check_together(job)
    if model.original_length is not None:
        check_lengths(job, model.original_length, model.block_length)
    return job


def pretrained_tokenizer(tokenizer: TokenizerConfig, model: Model) -> TokenizerConfig:
    """The tokenizer, that of the model where it says so."""
    if not isinstance(tokenizer, PretrainedTokenizer) or tokenizer.source is not None:
        return tokenizer
    if model.tokenizer_source is None:
        raise ConfigError(
            "tokenizer.source", None, f"model={model.word} has no tokenizer of its own", "name a hub id or folder, or use tokenizer=byte"
        )
    own = replace(tokenizer, source=model.tokenizer_source)
    own.key = "model.source"
    return own


def build_evaluations(nodes: DictConfig) -> tuple[Evaluation, ...]:
    words = [str(word) for word in nodes]
    for word in words:
        if "_target_" not in nodes[word]:
            raise ConfigError(f"evaluation.{word}", "{…}", "is set, but not among the chosen evaluations", f"add it: evaluation=[{word}]")
    return tuple(build(nodes[word], f"evaluation.{word}", Evaluation) for word in words)
