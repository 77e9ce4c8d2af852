"""Crash-safe checkpoints: written under another name, synced, renamed, each with a manifest of hashes.

A checkpoint contains all trained tensors in one safetensors file (`model.<name>`,
`optimizer.<index>.<parameter>.<key>`) and the progress as JSON. Of a frozen parameter it contains only a checksum
(`frozen.<name>`): the network that the run starts from has its values. It contains no random state, since all randomness
depends only on the seed and the step.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from elongate.atomic import remove, written_aside
from elongate.errors import ConfigError, RunError


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    step: int  # of base and extension together
    stage: str  # name of the stage of that step
    tokens: int  # trained on, by base and extension together
    seconds: float  # of training, over all starts of the run, without the base
    consumed: str  # running SHA-256 over the tokens of all batches, without the base's


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder."""

    folder: Path
    keep: int  # number of the newest ones to keep; the last of each stage is kept too

    def path(self, step: int) -> Path:
        """Returns the folder of a checkpoint."""
        return self.folder / f"step-{step:06d}"

    def save(
        self, network: nn.Module, optimizers: list[Optimizer], progress: Progress, stage_ends: set[int], best: int | None = None
    ) -> None:
        """Writes a checkpoint and removes those that are no longer kept. `best`: the step of one to keep."""
        tensors = {f"model.{name}": p.detach() for name, p in network.named_parameters() if p.requires_grad}
        tensors |= {f"frozen.{name}": torch.hash_tensor(p) for name, p in network.named_parameters() if not p.requires_grad}
        for i, optimizer in enumerate(optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{index}.{key}": value for key, value in state.items()}
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        with written_aside(self.path(progress.step)) as aside:
            aside.mkdir()
            save_file(tensors, aside / "tensors.safetensors")
            (aside / "progress.json").write_text(json.dumps(asdict(progress)))
            manifest = {file.name: _hash(file) for file in sorted(aside.iterdir())}
            (aside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        # Later ones are damaged or were not resumed from: they do not count towards `keep`.
        newest = [step for step in self._steps() if step <= progress.step][-self.keep :]
        for step in self._steps():
            if step not in newest and step not in stage_ends and step != best:
                remove(self.path(step))

    def undamaged(self, step: int) -> Path:
        """Returns the checkpoint of a step. Raises `RunError` if it is damaged."""
        if (damage := self._damage(self.path(step))) is not None:
            raise RunError(f"checkpoint {self.path(step)}, the best one, is damaged ({damage}); start over with overwrite=true")
        return self.path(step)

    def named(self, name: str) -> Path:
        """Returns the checkpoint of that name. Raises `ConfigError` if there is none, or it is damaged."""
        path, names = self.folder / name, [self.path(step).name for step in self._steps()]
        remedy = f"use {{key}}={names[-1]}, or null for the newest undamaged one" if names else "use {key}=null"
        if name not in names:
            rule = f"is not a checkpoint in {self.folder} ({', '.join(names) or 'there is none'})"
            raise ConfigError("training.resume_from", name, rule, remedy)
        if (damage := self._damage(path)) is not None:
            raise ConfigError("training.resume_from", name, f"is damaged ({damage})", "use {key}=null for the newest undamaged one")
        return path

    def newest_undamaged(self, warn: Callable[[str], None], last_step: int) -> Path | None:
        """Returns the newest undamaged checkpoint, or None. Calls `warn` for each one that is newer.

        `last_step`: the last step whose metrics are known; later checkpoints are not used.
        """
        for partial in self.folder.glob(".*.partial"):
            remove(partial)
        steps = self._steps()
        for step in reversed(steps):
            damage = self._damage(self.path(step)) if step <= last_step else f"metrics.jsonl ends before it, at step {last_step}"
            if damage is None:
                return self.path(step)
            warn(f"checkpoint {self.path(step).name} is not used ({damage})")
        if steps:
            warn("no checkpoint can be used; the training starts over")
        return None

    def _steps(self) -> list[int]:
        matches = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in matches if match)

    @staticmethod
    def _damage(path: Path) -> str | None:
        try:
            manifest = json.loads((path / "manifest.json").read_text())
        except (OSError, ValueError):
            return "manifest.json is missing or unreadable"
        for name, digest in manifest.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if _hash(path / name) != digest:
                return f"{name} does not have the hash in its manifest"
        return None


def load_checkpoint(path: Path, network: nn.Module, optimizers: list[Optimizer]) -> Progress:
    """Fills network and optimizers, bit for bit. The checkpoint's hashes were checked before.

    Raises `RunError` if the network's frozen weights differ from those that the checkpoint was trained with.
    """
    try:
        tensors = load_file(path / "tensors.safetensors")
    except SafetensorError as fault:
        raise AssertionError(f"{path} passed its hashes and is unreadable") from fault
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"model.{name}"])
            elif tensors[f"frozen.{name}"].item() != torch.hash_tensor(parameter).item():
                raise RunError(
                    f"{path} was trained with other frozen weights than the model has now ({name} differs); "
                    "restore them, or start over with overwrite=true"
                )
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, index, key = name.split(".", 3)
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads((path / "progress.json").read_text()))


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
