"""Optimizers: which parameters they update, how the loss falls, and how much state they keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elongate.cli import conf_directory
from elongate.training.loop import _state_bytes

WORDS = sorted(path.stem for path in (conf_directory() / "optimizer").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_every_parameter_is_updated_once_and_only_matrices_decay(word: str, build_tiny: Callable[..., Any]) -> None:
    job = build_tiny(f"optimizer={word}", "optimizer.weight_decay=0.1")
    network = job.model.build(257, seed=0).network
    groups = [group for optimizer in job.optimizer.build(network) for group in optimizer.param_groups]
    held = Counter(id(p) for group in groups for p in group["params"])
    assert held == Counter(id(p) for p in network.parameters())
    for group in groups:
        assert all(group["weight_decay"] == (0.1 if p.ndim >= 2 else 0.0) for p in group["params"])


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_the_loss_of_one_batch_falls(word: str, build_tiny: Callable[..., Any]) -> None:
    job = build_tiny(f"optimizer={word}")
    network = job.model.build(257, seed=0).network
    optimizers = job.optimizer.build(network)
    tokens = torch.randint(257, (4, 33), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(network(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.slow
def test_muon_updates_the_matrices_of_the_layers_and_no_tables(build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("optimizer=muon", "model.tie_weights=false")
    network = job.model.build(257, seed=0).network
    muon, adamw = job.optimizer.build(network)
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[id(p)] for p in muon.param_groups[0]["params"]} == {n for n in names.values() if "_proj" in n}
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= {names[id(p)] for g in adamw.param_groups for p in g["params"]}


@pytest.mark.slow
def test_adafactor_needs_a_twentieth_of_the_state_of_adamw_at_the_default_size(build_tiny: Callable[..., Any], tmp_path: Path) -> None:
    sizes = {}
    for word in ("adamw", "adafactor"):
        job = build_tiny(f"optimizer={word}", "model.num_layers=4", "model.dim=128", "model.mlp_dim=352")
        network = job.model.build(257, seed=0).network
        optimizers = job.optimizer.build(network)
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        for optimizer in optimizers:
            optimizer.step()
        sizes[word] = _state_bytes(optimizers)
    assert sizes["adamw"] >= 2 * 4 * sum(p.numel() for p in network.parameters())
    assert sizes["adafactor"] <= 0.05 * sizes["adamw"]


def test_the_logged_rate_of_adafactor_is_the_one_that_is_applied(build_tiny: Callable[..., Any]) -> None:
    """Under a constant gradient every step is the sign of the gradient, times the rate and the parameter's own size."""
    optimizer = build_tiny("optimizer=adafactor", "optimizer.lr=0.5").optimizer
    layer = torch.nn.Linear(1, 4, bias=False)
    (torch_optimizer,) = optimizer.build(layer)
    applied = []
    for _ in range(9):
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.ones_like(before)
        torch_optimizer.step()
        applied.append(float((before - layer.weight.detach()).abs().mean() / before.square().mean().sqrt()))
    torch.testing.assert_close(applied, [optimizer.step_size(0.5, step) for step in range(1, 10)], rtol=1e-5, atol=0)
