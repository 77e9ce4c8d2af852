"""Builds a job from the configuration: the only place where the objects of a run are made."""

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
from elongate.tracking.tracker import Tracking
from elongate.training.job import Job, PlanOptions, SweepOptions, TrainingOptions
from elongate.training.optimizer.optimizer import Optimizer
from elongate.training.schedule.schedule import Schedule
from elongate.training.validate import before_torch
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
    "plan",
    "sweep",
)


def build_job(config: DictConfig, choices: Mapping[str, Any], command: str = "") -> Job:
    """Returns the job, checked as far as possible. Raises `ConfigError`; never imports torch.

    `choices` are the chosen words by group, `command` is the command line.
    """
    top = scalars(config, GROUPS)
    model = build(config.model, "model", Model)
    strategy = build(config.context, "context", Strategy)
    job = Job(
        name=top.name,
        # The configuration of an earlier run comes without choices: its position names the strategy.
        context=str(choices["context"]) if "context" in choices else strategy.position.word,
        seed=top.seed,
        steps=top.steps,
        batch_tokens=top.batch_tokens,
        precision=top.precision,
        kernels=top.kernels,
        device=top.device,
        compile=top.compile,
        overwrite=top.overwrite,
        plan=plan_options(config),
        sweep=build_class(SweepOptions, config.get("sweep") or OmegaConf.create(), "sweep"),
        model=model,
        strategy=strategy,
        objective=build(config.objective, "objective", ObjectiveChoice),
        optimizer=build(config.optimizer, "optimizer", Optimizer),
        schedule=build(config.schedule, "schedule", Schedule),
        data=build(config.data, "data", Source),
        tokenizer=pretrained_tokenizer(build(config.tokenizer, "tokenizer"), model),
        tuning=build(config.tuning, "tuning", Tuning),
        memory=build(config.memory, "memory", Memory),
        training=build_class(TrainingOptions, config.training, "training"),
        evaluations=build_evaluations(config.evaluation),
        tracking=build(config.tracking, "tracking", Tracking),
        config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]  # a mapping, since the configuration is one
        command=command,
    )
    return before_torch(job)


def plan_options(config: DictConfig) -> PlanOptions:
    """Returns the options of a plan. `plan=true` replaces them all, as in the config.yaml of earlier versions. Raises `ConfigError`."""
    node = config.get("plan")
    if isinstance(node, DictConfig):
        options: PlanOptions = build_class(PlanOptions, node, "plan")
        return options
    if not isinstance(node, bool):
        raise ConfigError("plan", node, "must be true or false", "use {key}=true")
    return PlanOptions(show=node)


def pretrained_tokenizer(tokenizer: TokenizerConfig, model: Model) -> TokenizerConfig:
    """Returns the tokenizer. One without a source of its own gets the model's."""
    if not isinstance(tokenizer, PretrainedTokenizer) or tokenizer.source is not None:
        return tokenizer
    if model.tokenizer_source is None:
        rule = f"model={model.word} has no tokenizer of its own"
        raise ConfigError("tokenizer.source", None, rule, "name a hub id or folder, or use tokenizer=byte")
    own = replace(tokenizer, source=model.tokenizer_source)
    own.key = "model.source"
    return own


def build_evaluations(nodes: DictConfig) -> tuple[Evaluation, ...]:
    """Returns the evaluations in the order of their nodes. Raises `ConfigError`."""
    words = [str(word) for word in nodes]
    for word in words:
        if "_target_" not in nodes[word]:
            rule = "is set, but not among the chosen evaluations"
            raise ConfigError(f"evaluation.{word}", "{…}", rule, f"add it: evaluation=[{word}]")
    evaluations: tuple[Evaluation, ...] = tuple(build(nodes[word], f"evaluation.{word}", Evaluation) for word in words)
    for word, evaluation in zip(words, evaluations, strict=True):
        if evaluation.compares and not set(evaluation.compares) & set(words):
            rule = f"{word} compares the samples of {' or '.join(evaluation.compares)}, and neither is chosen"
            raise ConfigError("evaluation", words, rule, f"use {{key}}=[{','.join((evaluation.compares[0], *words))}]")
    return evaluations
