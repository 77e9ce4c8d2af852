"""The starting point of the extension: a checkpoint, or the base of a fresh model, trained once for all runs that share it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate import __version__
from elongate.atomic import written_aside
from elongate.console import say, warn
from elongate.context.attention.full import Full
from elongate.context.curriculum.curriculum import Base, Stage
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.none import Unchanged
from elongate.context.strategy import Strategy
from elongate.data.tokens import Corpus
from elongate.errors import ConfigError, Stopped, inside
from elongate.memory.plain import Plain
from elongate.models.model import Model
from elongate.models.pretrained import Pretrained
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job
from elongate.training.run_directory import RunDirectory

if TYPE_CHECKING:
    import torch

    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel

# A base depends on these groups, its tokens and its steps. Runs that agree in them share it.
_SHARED = ("seed", "batch_tokens", "precision", "compile", "model", "objective", "optimizer", "schedule")


@dataclass(frozen=True)
class Origin:
    model: Model
    tokenizer: Tokenizer
    is_trained: bool  # false: random weights, so there is nothing to measure before the extension
    metrics: list[dict[str, Any]]  # of the base
    budget: dict[str, Any] | None  # of the base

    def build(self, job: Job) -> LanguageModel:
        """The model on its device, before the extension."""
        from elongate.models.compatibility import check_head

        device = find_device(job.device)
        model = self.model.build(self.tokenizer.vocab_size, job.seed)
        model.network.to(device)
        model.mask_token = self.tokenizer.mask
        check_head(model)
        model.word, model.precision = job.model.word, job.precision
        if job.compile:
            model.compile()
        return model


def find_device(name: str) -> torch.device:
    """The torch device of this name. Raises `ConfigError` if it does not exist."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device", name, "there is no CUDA device that torch can use here", "use {key}=cpu or {key}=auto")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError("device", name, f"there are {count} CUDA devices here, counted from 0", f"use {{key}}=cuda:{count - 1}")
    return device


def fitted_tokenizer(job: Job) -> Tokenizer:
    """The fitted tokenizer, with a mask token if the objective hides tokens."""
    with inside("tokenizer"):
        tokenizer = job.tokenizer.fit(job.data)
        return tokenizer.with_mask() if job.objective.masks else tokenizer


def find_origin(job: Job, corpus: Corpus, tokenizer: Tokenizer, interrupt: Interrupt) -> Origin:
    """Opens the checkpoint, or trains the base."""
    base = job.strategy.curriculum.base
    if not job.model.fresh:
        if base not in (None, Base()):
            warn("context.curriculum.base has no effect on a pretrained model, which is its own base")
        return Origin(job.model, tokenizer, True, [], None)
    if base is None:
        return Origin(job.model, tokenizer, False, [], None)
    directory = _trained_base(job, base, corpus, tokenizer, interrupt)
    budget = directory.read_results()["budget"]
    base_model = Pretrained(source=str(directory.model), attention_dropout=job.model.attention_dropout)
    return Origin(base_model, tokenizer, True, directory.read_metrics(), budget)


def _trained_base(job: Job, base: Base, corpus: Corpus, tokenizer: Tokenizer, interrupt: Interrupt) -> RunDirectory:
    length = job.model.original_length
    assert length is not None, "a fresh model states its length"
    identity = {key: job.config[key] for key in _SHARED}
    identity |= {
        "clip_norm": job.limits.clip_norm,
        "steps": base.steps,
        "lr_ratio": base.lr_ratio,
        "tokens": corpus.fingerprint,
        "version": __version__,
    }
    identity |= {"isolate_documents": job.data.isolate_documents}
    position = job.strategy.position if job.strategy.position.from_the_start else Unchanged()
    if position.from_the_start:
        identity |= {"position": job.config["context"]["position"]}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    directory = RunDirectory(Path(base.directory) / f"{job.model.word}-{length}-{digest[:8]}")
    directory.path.mkdir(parents=True, exist_ok=True)
    waited: list[Path] = []

    def waiting() -> None:
        if interrupt.requested:
            raise Stopped(f"stopped by {interrupt.requested} while another process trains the base; run the same command to resume")
        if not waited:
            say(f"base: {directory.path} is being trained by another process, waiting for it")
            waited.append(directory.path)

    with directory.locked(waiting):
        directory.check(identity)
        directory.claim(identity, overwrite=False)
        if _is_whole(directory):
            say(f"base: reusing {directory.path}")
            return directory
        say(f"base: {directory.path}, {base.steps} steps at length {length}, shared by all runs that differ only in the extension")
        strategy = Strategy(position=position, attention=Full(), curriculum=Fixed(), target_length=length)
        optimizer = replace(job.optimizer, lr=base.lr_ratio * job.optimizer.lr)
        # All runs share the base, with any memory plan.
        memory = job.memory if job.memory.is_exact else Plain()
        own = replace(job, strategy=strategy, steps=base.steps, optimizer=optimizer, memory=memory)
        _train_base(own, length, corpus, tokenizer, directory, interrupt)
    return directory


def _train_base(job: Job, length: int, corpus: Corpus, tokenizer: Tokenizer, directory: RunDirectory, interrupt: Interrupt) -> None:
    from elongate.training.loop import fit

    model = Origin(job.model, tokenizer, False, [], None).build(job)
    stages = [Stage("base", length, job.steps)]
    fitted = fit(job, model, length, corpus.train, stages, directory, [], lambda history: lambda line: None, interrupt)
    progress = fitted.progress
    budget = {"tokens": progress.tokens, "steps": progress.step, "seconds": progress.seconds, "path": str(directory.path)}
    export(model, tokenizer, directory.model)
    directory.write_results({"budget": budget, "weights_sha256": _weights_hash(directory)})


def _is_whole(directory: RunDirectory) -> bool:
    """Whether the base is trained and its weights match their recorded hash."""
    written = directory.read_results().get("weights_sha256")
    if written is None or not directory.model.exists():
        return False
    if written != _weights_hash(directory):
        warn(f"base {directory.path}: weights do not match the recorded hash; rebuilding them from the checkpoint")
        return False
    return True


def _weights_hash(directory: RunDirectory) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.model.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def export(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights, configuration and tokenizer. Plain transformers opens the folder if it can express the model."""
    with written_aside(folder) as aside:
        model.save(aside)
        tokenizer.save(aside)
