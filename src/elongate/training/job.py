"""A run as objects: everything that the configuration describes. Importable without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elongate.context.strategy import Strategy
from elongate.data.source import Source
from elongate.errors import require
from elongate.evaluation.evaluation import Evaluation
from elongate.memory.memory import Memory
from elongate.memory.planner.cards import CARDS
from elongate.models.model import Model
from elongate.objectives.objective import Objective
from elongate.training.optimizer.optimizer import Optimizer
from elongate.training.schedule.schedule import Schedule
from elongate.tuning.tuning import Tuning

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import TokenizerConfig
    from elongate.tracking.tracker import Tracking


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of the training loop: the keys below `training`."""

    clip_norm: float | None = 1.0  # largest norm of the gradient, above 0; null: no clipping
    log_steps: int = 1  # steps from one line of metrics.jsonl to the next, at least 1
    checkpoint_steps: int = 100  # steps from one checkpoint to the next, at least 1; the end of a stage always has one
    keep_checkpoints: int = 2  # number of the newest checkpoints to keep, at least 1; the last of each stage is kept too
    resume_from: str | None = None  # a checkpoint of the run, such as step-000400; null: the newest undamaged one

    def __post_init__(self) -> None:
        positive = self.clip_norm is None or self.clip_norm > 0
        require(positive, "clip_norm", self.clip_norm, "must be above 0", "use {key}=1, or null for no clipping")
        for name in ("log_steps", "checkpoint_steps", "keep_checkpoints"):
            remedy = f"use {{key}}={getattr(TrainingOptions, name)}"
            require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1", remedy)
        named = self.resume_from is None or re.fullmatch(r"step-\d+", self.resume_from) is not None
        rule = "must be the name of a checkpoint, such as step-000400"
        require(named, "resume_from", self.resume_from, rule, "use {key}=null for the newest one")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of `plan=true`: the keys below `plan`."""

    show: bool = False  # print what each memory plan needs instead of training; plan=true is short for it
    device: str | None = None  # a card that need not be here: h100, h200, a100-80gb, a100-40gb, rtx4090; null: this machine

    def __post_init__(self) -> None:
        known = self.device is None or self.device in CARDS
        require(known, "device", self.device, f"must be null or one of {', '.join(CARDS)}", "use {key}=h100")

    @property
    def is_wanted(self) -> bool:
        """Return whether a plan is printed: a card that is named is not trained on."""
        return self.show or self.device is not None


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What a sweep asks of each run: the keys below `sweep`."""

    metric: str | None = None  # the figure that a search optimizes, by its path in the trackers, such as curve/after/512-1024


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    name: str  # end of the run directory's name
    context: str  # the word of the context preset
    seed: int
    steps: int  # optimizer steps of the extension
    batch_tokens: int  # tokens of one optimizer step, at every length
    precision: str  # fp32, bf16 or bf16_pure
    kernels: str  # fused layers: auto, none or liger
    device: str  # auto, or a torch device
    compile: bool  # compile each layer
    overwrite: bool  # start over in a directory that contains a run
    plan: PlanOptions
    sweep: SweepOptions
    model: Model
    strategy: Strategy
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    data: Source
    tokenizer: TokenizerConfig
    tuning: Tuning  # of the extension; a base is trained in full
    memory: Memory
    training: TrainingOptions
    evaluations: tuple[Evaluation, ...]
    tracking: Tracking
    config: Mapping[str, Any]  # the resolved configuration that all of this was built from
    command: str  # the command line that started the run
