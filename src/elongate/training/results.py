"""The sections of `results.json` that the training writes. Each evaluation adds a section of its own word."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from elongate import __version__
from elongate.context.curriculum.curriculum import Stage
from elongate.training.device import describe_device
from elongate.training.job import Job
from elongate.training.run_directory import Lines

if TYPE_CHECKING:
    import torch

    from elongate.data.sequences import Usage
    from elongate.data.tokens import Corpus
    from elongate.memory.memory import Memory
    from elongate.models.language_model import LanguageModel
    from elongate.training.base import Origin
    from elongate.training.loop import Fit


@dataclass(frozen=True)
class StrategySection:
    """`strategy`: the words that were chosen, the lengths, and the evidence that the strategy is active."""

    model: str
    context: str
    position: str
    attention: str
    evaluation_attention: str
    curriculum: str
    sampling: str | None
    objective: str
    tuning: str
    adapters: dict[str, Any] | None
    original_length: int  # tokens
    target_length: int  # tokens
    factor: float  # target_length / original_length
    proof: dict[str, Any]


@dataclass(frozen=True)
class DataSection:
    """`data`: the text, and a hash of all tokens that the extension was trained on, in their order."""

    source: str
    train_tokens: int
    validation_tokens: int
    add_bos: bool  # documents and measured texts begin with BOS
    consumed_tokens_sha256: str
    sources: dict[str, dict[str, Any]]  # what the extension read of each source: sequences, tokens, epochs, and cuts if packed


@dataclass(frozen=True)
class StageRow:
    """An element of `stages`."""

    name: str
    length: int  # tokens of a sequence
    reach: int  # one more than the largest position of the logged steps
    steps: int
    tokens: int
    loss: float  # mean of the last tenth of the logged steps, in nats


@dataclass(frozen=True)
class BudgetSection:
    """`budget`: the cost of the extension, and of the base below `base`."""

    tokens: int
    steps: int
    seconds: float
    tokens_per_second: float
    mfu: float | None  # share of the GPU's peak, 0 to 1; None: not known
    peak_memory_bytes: int
    parameters: int
    trained_parameters: int
    optimizer_state_bytes: int
    base: dict[str, Any] | None


@dataclass(frozen=True)
class ProvenanceSection:
    """`provenance`: how and where the model was trained."""

    command: str
    precision: str
    versions: dict[str, str]
    device: str
    date: str  # when the training ended, ISO 8601 in UTC


@dataclass(frozen=True)
class TrainingSections:
    """All sections of the training."""

    strategy: StrategySection
    memory: dict[str, Any]
    budget: BudgetSection
    stages: list[StageRow]
    data: DataSection
    provenance: ProvenanceSection

    def to_json(self) -> dict[str, Any]:
        """Returns the sections by their names."""
        return asdict(self)


def strategy_section(job: Job, model: LanguageModel, original_length: int, evidence: dict[str, Any]) -> StrategySection:
    """Returns the section `strategy`."""
    strategy = job.strategy
    return StrategySection(
        model=job.model.word,
        context=job.context,
        position=strategy.position.word,
        attention=strategy.attention.word,
        evaluation_attention=strategy.measured_attention.word,
        curriculum=strategy.curriculum.word,
        sampling=None if strategy.sampling is None else strategy.sampling.word,
        objective=job.objective.word,
        tuning=job.tuning.word,
        adapters=job.tuning.adapters(model),
        original_length=original_length,
        target_length=strategy.target_length,
        factor=strategy.target_length / original_length,
        proof=evidence,
    )


def data_section(job: Job, corpus: Corpus, consumed: str, usages: Iterable[dict[str, Usage]]) -> DataSection:
    """Returns the section `data`. `usages`: what each stage read."""
    sources: dict[str, Usage] = {}
    for usage in usages:
        for name, one in usage.items():
            sources[name] = sources[name].followed_by(one) if name in sources else one
    read = {name or job.data.word: {k: v for k, v in asdict(one).items() if v is not None} for name, one in sources.items()}
    train = corpus.train
    return DataSection(job.data.word, len(train), len(corpus.validation), bool(train.beginning), consumed, read)


def stage_row(stage: Stage, batch_tokens: int, metrics: Lines) -> StageRow:
    """Returns the element of `stages` for a stage, from the lines of metrics.jsonl."""
    lines = [line for line in metrics if line["stage"] == stage.name]
    last = [line["loss"] for line in lines[-max(1, len(lines) // 10) :]]
    tokens = batch_tokens // stage.length * stage.length * stage.steps
    # Positions that were logged, which with sampled positions may be fewer than the stage allows.
    reach = max(line["reach"] for line in lines)
    return StageRow(stage.name, stage.length, reach, stage.steps, tokens, sum(last) / len(last))


def memory_section(memory: Memory) -> dict[str, Any]:
    """Returns the section `memory`: the plan with its options."""
    return {"plan": memory.word, "exact": memory.is_exact, **vars(memory)}


def budget_section(model: LanguageModel, fitted: Fit, metrics: Lines, origin: Origin) -> BudgetSection:
    """Returns the section `budget`. `metrics` are the lines of the extension."""
    base_tokens, base_steps = (origin.metrics[-1][key] if origin.metrics else 0 for key in ("tokens", "step"))
    tokens, seconds = fitted.progress.tokens - base_tokens, fitted.progress.seconds
    return BudgetSection(
        tokens=tokens,
        steps=fitted.progress.step - base_steps,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        mfu=_mean_mfu(metrics),
        peak_memory_bytes=max(line["peak_memory_bytes"] for line in metrics),
        parameters=model.num_parameters(),
        trained_parameters=sum(p.numel() for p in model.parameters()),
        optimizer_state_bytes=fitted.optimizer_state_bytes,
        base=origin.budget,
    )


def _mean_mfu(metrics: Lines) -> float | None:
    """The mean over the time of the logged steps."""
    known = [(line["mfu"], line["seconds"]) for line in metrics if "mfu" in line]
    return sum(mfu * seconds for mfu, seconds in known) / sum(seconds for _, seconds in known) if known else None


def provenance_section(job: Job, device: torch.device) -> ProvenanceSection:
    """Returns the section `provenance`."""
    versions = {"elongate": __version__, "torch": version("torch"), "transformers": version("transformers")}
    versions |= {"python": platform.python_version()}
    if job.precision == "bf16_pure":
        versions["torchao"] = version("torchao")
    return ProvenanceSection(job.command, job.precision, versions, describe_device(device), datetime.now(UTC).isoformat(timespec="seconds"))
