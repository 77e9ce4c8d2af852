"""`precision=bf16_pure`: weights in bfloat16, rounded at random, with 8-bit optimizer state. `make test-pure` runs these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import evaluated
from tests.interrupts import SignalAfter
from tests.training.conftest import Workshop
from torch import nn
from transformers import AutoModelForCausalLM

from elongate.errors import Stopped
from elongate.memory.plain import Plain
from elongate.memory.planner.planner import _state_bytes as planned_state_bytes
from elongate.training.checkpoints import Checkpoints, Progress, load_checkpoint
from elongate.training.loop import _set_rates, _state_bytes
from elongate.training.optimizer.adamw import AdamW
from elongate.training.run_directory import RunDirectory

pytest.importorskip("torchao", reason="torchao is not installed: see `make test-pure`")
# Matrices of 64 × 64 are the smallest whose state has 8 bits.
PURE = ["precision=bf16_pure", "model.dim=64", "model.mlp_dim=64", "model.num_layers=1"]


def layer(*weights: float, rows: int = 64) -> nn.Module:
    """A matrix whose columns repeat these weights, in bfloat16."""
    built = nn.Linear(64, rows, bias=False)
    built.weight = nn.Parameter(torch.tensor(weights).repeat(rows, 64 // len(weights)).bfloat16())
    return built


def test_updates_are_unbiased_and_end_at_neighbours() -> None:
    """The first step of AdamW changes every weight by the learning rate, whatever the size of the gradient."""
    before, rate = torch.tensor([1.0, -0.3125, 0.0107421875, -2.5]), 1e-3
    built = layer(*before.tolist(), rows=4096)
    (optimizer,) = AdamW(lr=rate, weight_decay=0.0).build(built)
    built.weight.grad = torch.full_like(built.weight, 0.5)
    torch.manual_seed(0)
    optimizer.step()
    for column, weight in enumerate(before.tolist()):
        found = built.weight.detach()[:, column::4].double()
        exact = torch.tensor(weight, dtype=torch.float64) - rate
        near = (exact.bfloat16().view(torch.int16) + torch.tensor([-1, 0, 1], dtype=torch.int16)).view(torch.bfloat16).double()
        low, high = float(near[near < exact].max()), float(near[near > exact].min())
        assert found.unique().tolist() == [low, high]
        share = float((exact - low) / (high - low))
        error = (high - low) * (share * (1 - share) / found.numel()) ** 0.5
        assert abs(float(found.mean() - exact)) < 4 * error + 1e-8  # float32 rounds the exact value


def test_a_weight_takes_six_bytes_and_the_planner_knows_it() -> None:
    network = nn.Sequential(nn.Embedding(300, 64), nn.Linear(64, 512), nn.LayerNorm(512), nn.Linear(512, 300)).bfloat16()
    (optimizer,) = AdamW().build(network)
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    parameters = list(network.parameters())
    steps = 4 * len(parameters)  # the number of steps, of each parameter
    assert _state_bytes([optimizer]) == sum(map(planned_state_bytes, parameters)) + steps
    held = sum(p.nbytes + p.grad.nbytes for p in parameters) + _state_bytes([optimizer])
    assert held / sum(p.numel() for p in parameters) < 6.1


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed)).bfloat16()
    torch.manual_seed(seed)
    loss = (network(inputs).float() - inputs.float()).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_a_loaded_checkpoint_continues_bit_for_bit(tmp_path: Path) -> None:
    def built() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)).bfloat16()
        return network, AdamW().build(network)

    network, optimizers = built()
    for seed in range(3):
        step(network, *optimizers, seed)
    Checkpoints(tmp_path, keep=2).save(network, optimizers, Progress(3, "extend", 3, 0.5, ""), set())
    other, others = built()
    load_checkpoint(tmp_path / "step-000003", other, others)
    for seed in (3, 4):
        assert step(network, *optimizers, seed) == step(other, *others, seed)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(network.parameters(), other.parameters(), strict=True))
    states = [optimizer.state_dict()["state"] for optimizer in (*optimizers, *others)]
    for ours, theirs in zip(*(state.values() for state in states), strict=True):
        assert {"exp_avg.codes", "exp_avg_sq.scale"} <= states[0][0].keys() == states[1][0].keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_small_updates_add_up_and_without_random_rounding_they_are_lost() -> None:
    """Half the distance between neighbours is 0.002 for weights of 0.5 to 1, more than a step changes them."""
    from torchao.optim import AdamW8bit

    def trained(built: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        target = 0.9 * built.weight.detach().clone()
        for seed in range(60):
            torch.manual_seed(seed)
            (built.weight.float() - target.float()).square().sum().backward()
            _set_rates([optimizer], [[2e-3]], 0.5)
            optimizer.step()
            optimizer.zero_grad()
        return float(((built.weight.float() - target.float()).square().sum() / (0.1 * target.float() / 0.9).square().sum()).detach())

    weights = (0.99, 0.75, -0.6, -0.8)
    wide = layer(*weights).float()
    exact = trained(wide, torch.optim.AdamW(wide.parameters(), lr=1e-3, weight_decay=0.0))
    pure = layer(*weights)
    (optimizer,) = AdamW(weight_decay=0.0).build(pure)
    assert trained(pure, optimizer) == pytest.approx(exact, abs=0.05)
    nearest = layer(*weights)
    with torch.compiler.set_stance("force_eager"):
        stalled = trained(nearest, AdamW8bit(nearest.parameters(), lr=1e-3, weight_decay=0.0))
    assert exact < 0.5
    assert stalled > 0.95


def written(directory: RunDirectory) -> tuple[bytes, list[float]]:
    """The weights and losses of a run."""
    return (directory.model / "model.safetensors").read_bytes(), [line["loss"] for line in directory.read_metrics()]


@pytest.fixture(scope="module")
def whole(start: Workshop) -> tuple[RunDirectory, dict[str, Any]]:
    return start("whole", *PURE)


def test_a_run_is_exported_in_bfloat16_and_measured_as_it_is_reopened(
    whole: tuple[RunDirectory, dict[str, Any]], start: Workshop, tmp_path: Path
) -> None:
    directory, results = whole
    assert results["provenance"]["precision"] == "bf16_pure"
    assert results["provenance"]["versions"]["torchao"] == "0.18.0"
    assert results["export"]["dtype"] == "bfloat16"
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(directory.model).parameters()} == {torch.bfloat16}
    assert results["budget"]["optimizer_state_bytes"] < 3.1 * results["budget"]["parameters"]
    assert evaluated(directory.path, tmp_path / "again")["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    _, half = start("half", *PURE, "precision=bf16")
    assert results["stages"][0]["loss"] == pytest.approx(half["stages"][0]["loss"], abs=2e-2)


def test_a_stopped_run_resumes_to_the_same_bits(
    whole: tuple[RunDirectory, dict[str, Any]], start: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(1))
        with pytest.raises(Stopped):
            start("stopped", *PURE)
    directory, _ = start("stopped", *PURE)
    assert written(directory) == written(whole[0])


def test_rounding_does_not_depend_on_what_else_is_drawn(
    whole: tuple[RunDirectory, dict[str, Any]], start: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout and the chunks of memory=stream draw random numbers too."""
    backward = Plain.backward

    def drawing(plan: Plain, *arguments: Any) -> float:
        torch.rand(3)
        return backward(plan, *arguments)

    monkeypatch.setattr(Plain, "backward", drawing)
    directory, _ = start("drawing", *PURE)
    assert written(directory) == written(whole[0])
