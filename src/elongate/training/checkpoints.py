"""Crash-safe checkpoints: written aside, synced and renamed, each with a manifest of hashes.

A checkpoint has everything that is trained in one safetensors file (`model.<name>`, `optimizer.<which>.<parameter>.<key>`) and the
progress as JSON. A frozen parameter has only a checksum (`frozen.<name>`), because the run's starting network provides it.
It has no random state: all randomness depends only on the seed and the step.
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
from elongate.errors import RunError


@dataclass(frozen=True)
class Progress:
    """The progress of a run, from which it resumes exactly."""

    step: int  # of all stages, without the base's
    stage: str
    tokens: int
    seconds: float  # of training, over all starts
    consumed: str  # running SHA-256 over the tokens of all batches


@dataclass(frozen=True)
class Checkpoints:
    folder: Path
    keep: int  # number of newest checkpoints to keep, in addition to the last of each stage

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def save(self, network: nn.Module, optimizers: list[Optimizer], progress: Progress, stage_ends: set[int]) -> None:
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
        # Later ones are damaged, or the run would have resumed from them. They do not count towards `keep`.
        newest = [step for step in self._steps() if step <= progress.step][-self.keep :]
        for step in self._steps():
            if step not in newest and step not in stage_ends:
                remove(self.path(step))

    def newest_sound(self, warn: Callable[[str], None]) -> tuple[int, Path] | None:
        """Step and path of the newest sound checkpoint. Calls `warn` for each newer one that is damaged."""
        for partial in self.folder.glob(".*.partial"):
            remove(partial)
        for step in reversed(self._steps()):
            if (fault := self._fault(self.path(step))) is None:
                return step, self.path(step)
            warn(f"checkpoint {self.path(step).name} is damaged ({fault}); using the previous one")
        return None

    def _steps(self) -> list[int]:
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    @staticmethod
    def _fault(path: Path) -> str | None:
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
    """Restores network and optimizers bit for bit. Call with a checkpoint that was verified.

    Raises `RunError` if the frozen weights differ from those of the checkpoint's training.
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
                    f"{path} was trained on other weights than the model has now ({name} differs); "
                    "bring those back, or start over with overwrite=true"
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
