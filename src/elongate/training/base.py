"""The model that the extension starts from: a checkpoint, or a fresh model with its base training.

A base is trained once and shared by all runs that differ only in the extension.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate import __version__
from elongate.console import say, warn
from elongate.context.attention.full import Full
from elongate.context.curriculum.curriculum import Base, Stage
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.none import Unchanged
from elongate.context.position.position import Position
from elongate.context.strategy import Strategy
from elongate.data.source import Source
from elongate.errors import Stopped
from elongate.memory.plain import Plain
from elongate.models.model import Model
from elongate.models.pretrained import Pretrained
from elongate.tracking.tracker import Untracked
from elongate.training.device import find_device
from elongate.training.export import export
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job
from elongate.training.progress import Forecast
from elongate.training.run_directory import Lines, RunDirectory
from elongate.training.session import Session
from elongate.training.text import Text

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel

# Parts of the configuration that a base depends on. Runs that agree in them, in the text and in the base's steps share it.
_SHARED = ("seed", "batch_tokens", "precision", "compile", "model", "objective", "optimizer", "schedule")


@dataclass(frozen=True)
class Origin:
    """The model before the extension."""

    model: Model
    tokenizer: Tokenizer
    is_trained: bool  # False: random weights, which are not worth measuring
    metrics: Lines  # of the base; empty without one
    budget: dict[str, Any] | None  # of the base

    def build(self, job: Job) -> LanguageModel:
        """Returns the network on its device. Raises `ConfigError`."""
        model = self.model.build(self.tokenizer.vocab_size, job.seed)
        model.mask_token = self.tokenizer.mask
        return opened(model, job)


def opened(model: LanguageModel, job: Job) -> LanguageModel:
    """Returns the model on the job's device, in its precision, checked. Raises `ConfigError`."""
    from elongate.models.compatibility import check_network
    from elongate.models.kernels import use_kernels
    from elongate.models.precision import use_precision

    device = find_device(job.device)
    model.network.to(device)
    check_network(model)
    model.word = job.model.word
    model.kernels = use_kernels(model.network, "none" if job.compile else job.kernels, device)
    use_precision(model, job.precision)
    if job.compile:
        model.compile()
    return model


def without_base(job: Job, tokenizer: Tokenizer) -> Origin:
    """Returns the job's model as it is: a checkpoint, or random weights."""
    return Origin(job.model, tokenizer, not job.model.fresh, [], None)


def find_origin(job: Job, text: Text, forecast: Forecast, interrupt: Interrupt) -> Origin:
    """Opens the checkpoint, or trains the base if it is not trained yet. `forecast`: what follows a base."""
    base = job.strategy.curriculum.base
    if base is None or not job.model.fresh:
        if base not in (None, Base()):
            warn("context.curriculum.base has no effect on a pretrained model, which is its own base")
        return without_base(job, text.tokenizer)
    directory = _trained_base(job, base, text, forecast, interrupt)
    budget = directory.read_results()["budget"]
    model = Pretrained(source=str(directory.model), attention_dropout=job.model.attention_dropout)
    return Origin(model, text.tokenizer, True, directory.read_metrics(), budget)


def _trained_base(job: Job, base: Base, text: Text, forecast: Forecast, interrupt: Interrupt) -> RunDirectory:
    length = job.model.original_length
    assert length is not None, "known of a fresh model"
    # A position that a model must be trained with acts on the base too.
    position = job.strategy.position if job.strategy.position.from_the_start else Unchanged()
    identity = _identity(job, base, position, text.corpus.fingerprint)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    directory = RunDirectory(Path(base.directory) / f"{job.model.word}-{length}-{digest[:8]}")
    directory.path.mkdir(parents=True, exist_ok=True)
    with directory.locked(_Waiting(directory, interrupt)):
        directory.repair()
        directory.check(identity)
        directory.claim(identity, overwrite=False)
        if _is_trained(directory):
            say(f"base: reusing {directory.path}")
            return directory
        say(f"base: {directory.path}, {base.steps} steps at length {length}, shared by all runs that differ only in the extension")
        own = _base_job(job, base, position)
        _train_base(own, length, text, forecast, Session(directory, Untracked(), interrupt))
    return directory


class _Waiting:
    """Called while another process trains the base."""

    def __init__(self, directory: RunDirectory, interrupt: Interrupt) -> None:
        self._directory, self._interrupt, self._printed = directory, interrupt, False

    def __call__(self) -> None:
        if name := self._interrupt.requested:
            raise Stopped(f"stopped by {name} while another process trains the base; run the same command to resume")
        if not self._printed:
            say(f"base: {self._directory.path} is being trained by another process, waiting for it")
            self._printed = True


def _identity(job: Job, base: Base, position: Position, fingerprint: str) -> dict[str, Any]:
    """Everything that the weights of the base depend on."""
    identity = {key: job.config[key] for key in _SHARED}
    # A base keeps all digits of its weights.
    identity["model"] = {key: value for key, value in job.config["model"].items() if key != "export_dtype"}
    if (objective := job.objective.base) is not job.objective:
        identity["objective"] = {"_target_": f"{type(objective).__module__}.{type(objective).__qualname__}", **vars(objective)}
    identity |= {"clip_norm": job.training.clip_norm, "steps": base.steps, "lr_ratio": base.lr_ratio}
    identity |= {"tokens": fingerprint, "version": __version__, "arrangement": _arrangement(job.data)}
    return identity | ({"position": job.config["context"]["position"]} if position.from_the_start else {})


def _arrangement(data: Source) -> dict[str, Any]:
    """What decides the sequences besides the tokens."""
    if not data.parts:
        return {"isolate_documents": data.isolate_documents, "packing": data.packing}
    return {name: {"share": data.part_shares[name], **_arrangement(part)} for name, part in data.parts.items()}


def _base_job(job: Job, base: Base, position: Position) -> Job:
    """The job that trains the base: full attention, the base's steps and learning rate."""
    assert job.model.original_length is not None, "known of a fresh model"
    return replace(
        job,
        strategy=Strategy(position=position, attention=Full(), curriculum=Fixed(), target_length=job.model.original_length),
        steps=base.steps,
        objective=job.objective.base,
        optimizer=replace(job.optimizer, lr=base.lr_ratio * job.optimizer.lr),
        # Runs with any memory plan share the base, so its gradient must be exact.
        memory=job.memory if job.memory.is_exact else Plain(),
        # Checkpoints that are named are the run's, and evaluations during the training too.
        training=replace(job.training.unfollowed(), resume_from=None),
    )


def _train_base(job: Job, length: int, text: Text, forecast: Forecast, session: Session) -> None:
    from elongate.training.loop import Course, fit

    model = without_base(job, text.tokenizer).build(job)
    progress = fit(job, model, Course(length, [Stage("base", length, job.steps)], text.corpus.train, [], forecast), session).progress
    directory = session.directory
    budget = {"tokens": progress.tokens, "steps": progress.step, "seconds": progress.seconds, "path": str(directory.path)}
    export(model, text.tokenizer, directory.model)
    directory.write_results({"budget": budget, "weights_sha256": _weights_hash(directory)})


def _is_trained(directory: RunDirectory) -> bool:
    """Whether the base is trained, and its weights are unchanged since."""
    recorded = directory.read_results().get("weights_sha256")
    if recorded is None or not directory.model.exists():
        return False
    if recorded != _weights_hash(directory):
        warn(f"base {directory.path}: weights do not match the recorded hash; rebuilding them from the checkpoint")
        return False
    return True


def _weights_hash(directory: RunDirectory) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.model.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
