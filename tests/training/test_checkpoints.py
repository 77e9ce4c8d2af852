"""Checkpoints: exact round trips, which ones are kept, and damage to their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from elongate.errors import ConfigError
from elongate.training.checkpoints import Checkpoints, Progress, load_checkpoint


def trained(steps: int, optimizer_type: type = torch.optim.AdamW) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """Two modules with an optimizer each, as Muon and AdamW share a network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3))
    optimizers = [optimizer_type(part.parameters(), lr=0.1) for part in network]
    for _ in range(steps):
        step(network, optimizers)
    return network, optimizers


def step(network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    network(torch.arange(7)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def progress(step: int) -> Progress:
    return Progress(step=step, stage="extend", tokens=10 * step, seconds=0.5, consumed="ab")


@pytest.mark.parametrize("optimizer_type", [torch.optim.AdamW, torch.optim.Adafactor])
def test_a_loaded_checkpoint_continues_bit_for_bit(tmp_path: Path, optimizer_type: type) -> None:
    network, optimizers = trained(3, optimizer_type)
    Checkpoints(tmp_path, keep=2).save(network, optimizers, progress(3), set())
    other, others = trained(0, optimizer_type)
    assert load_checkpoint(tmp_path / "step-000003", other, others) == progress(3)
    step(network, optimizers)
    step(other, others)
    for ours, theirs in zip(other.parameters(), network.parameters(), strict=True):
        assert_close(ours, theirs, rtol=0, atol=0)


def test_the_newest_ones_and_the_last_of_each_stage_are_kept(tmp_path: Path) -> None:
    network, optimizers = trained(1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30, 40, 50):
        checkpoints.save(network, optimizers, progress(step), stage_ends={20})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000020", "step-000040", "step-000050"]


@pytest.mark.parametrize("file", ["tensors.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "missing"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path: Path, file: str, damage: str) -> None:
    network, optimizers = trained(1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20):
        checkpoints.save(network, optimizers, progress(step), set())
    path = tmp_path / "step-000020" / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        # In a hash of the manifest, in the weights, in the progress: somewhere in the middle.
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    warnings: list[str] = []
    assert checkpoints.newest_undamaged(warnings.append, 30) == tmp_path / "step-000010"
    assert len(warnings) == 1
    assert "step-000020 is not used (" in warnings[0]


def test_a_checkpoint_newer_than_the_metrics_is_not_used_and_a_new_start_is_announced(tmp_path: Path) -> None:
    network, optimizers = trained(1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20):
        checkpoints.save(network, optimizers, progress(step), set())
    warnings: list[str] = []
    assert checkpoints.newest_undamaged(warnings.append, 19) == tmp_path / "step-000010"
    assert warnings == ["checkpoint step-000020 is not used (metrics.jsonl ends before it, at step 19)"]
    assert checkpoints.newest_undamaged(warnings.append, 9) is None
    assert warnings[-1] == "no checkpoint can be used; the training starts over"


def test_a_checkpoint_is_chosen_by_name(tmp_path: Path) -> None:
    network, optimizers = trained(1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20):
        checkpoints.save(network, optimizers, progress(step), set())
    assert checkpoints.named("step-000010") == tmp_path / "step-000010"
    with pytest.raises(
        ConfigError, match=r"resume_from=step-000030: is not a checkpoint in .* \(step-000010, step-000020\); use .*=step-000020"
    ):
        checkpoints.named("step-000030")


def test_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-000010.123.partial").mkdir()
    assert Checkpoints(tmp_path, keep=2).newest_undamaged(print, 30) is None
    assert list(tmp_path.iterdir()) == []
