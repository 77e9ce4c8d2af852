"""A run is a plain PyTorch loop: the same batches, dropout, clipping and learning rates end with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from elongate.data.sequences import Sequences
from elongate.data.tokens import Tokens, load_corpus
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

BASE_STEPS, STEPS, LENGTH, BATCH_TOKENS = 5, 4, 32, 256
LR, LR_RATIO, CLIP_NORM, DECAY = 0.002, 4.0, 0.05, 0.1


@pytest.fixture
def job(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path) -> Any:
    """GPT-2, which has dropout, with a limit that always clips the gradient."""
    return build_tiny(
        *("model=gpt2", "model.dropout=0.2", f"optimizer.lr={LR}", f"training.clip_norm={CLIP_NORM}", f"steps={STEPS}"),
        *(f"context.curriculum.base.steps={BASE_STEPS}", f"context.curriculum.base.lr_ratio={LR_RATIO}", "evaluation=[]"),
        *(f"context.curriculum.base.directory={tmp_path}/bases", "data=text", f"data.path={text_folder}", "seed=3"),
    )


def share_of_peak(step: int, steps: int) -> float:
    """Linear warm-up over 5% of the steps, then half a cosine down to a tenth."""
    warmup = 0.05 * steps
    if step < warmup:
        return step / warmup
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def trained_by_hand(network: torch.nn.Module, tokens: Tokens, seed: int) -> torch.nn.Module:
    """Trains the base with a plain loop: AdamW at the rate of the base, weight decay for matrices only."""
    groups = [
        {"params": [p for p in network.parameters() if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    sequences = Sequences(tokens, LENGTH, 1000 * seed, isolate_documents=False)
    rows = BATCH_TOKENS // LENGTH
    network.train()
    for step in range(1, BASE_STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = LR_RATIO * LR * share_of_peak(step, BASE_STEPS)
        batch = torch.from_numpy(sequences.batch((step - 1) * rows, rows).tokens.astype("int64"))
        torch.manual_seed(1_000_003 * seed + step)
        logits = network(input_ids=batch[:, :-1], use_cache=False).logits
        F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


@pytest.mark.slow
def test_a_run_is_a_plain_loop_at_the_rates_of_base_and_extension(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    run(job, directory)
    corpus = load_corpus(job.data, job.tokenizer.fit(job.data))
    expected = trained_by_hand(job.model.build(257, job.seed).network, corpus.train, job.seed)
    (base,) = (tmp_path / "bases").glob("*/model")
    trained = AutoModelForCausalLM.from_pretrained(base)
    for (name, ours), theirs in zip(trained.named_parameters(), expected.parameters(), strict=True):
        # AdamW divides a gradient by its size, so rounding of a gradient near 0 becomes a part of the rate.
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")

    lines = directory.read_metrics()
    rates = [LR_RATIO * LR * share_of_peak(step, BASE_STEPS) for step in range(1, BASE_STEPS + 1)]
    rates += [LR * share_of_peak(step, STEPS) for step in range(1, STEPS + 1)]
    assert [line["lr"] for line in lines] == pytest.approx(rates, rel=1e-12)
    assert all(line["grad_norm"] > CLIP_NORM for line in lines)


@pytest.mark.slow
def test_no_optimizer_leaves_a_gradient_to_the_next_step(
    build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["data=text", f"data.path={text_folder}", "evaluation=[]"]
    job = build_tiny("optimizer=muon", "context/curriculum=fixed", "steps=2", "training.checkpoint_steps=1", *data)
    left: list[list[str]] = []

    def save(checkpoints: Any, network: torch.nn.Module, optimizers: list[Any], *others: Any) -> None:
        assert len(optimizers) == 2
        left.append([name for name, parameter in network.named_parameters() if parameter.grad is not None])

    monkeypatch.setattr("elongate.training.loop.Checkpoints.save", save)
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    run(job, directory)
    assert left == [[], []]
