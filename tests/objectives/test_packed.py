"""Packed batches: the loss and the gradient are those of each document on its own; padding has no part in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from elongate.data.packing import PackedSequences
from elongate.data.tokens import Tokens
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.objectives.causal import Causal

LENGTHS = [9, 30, 14, 3, 22, 61, 8]  # 61 is split into 33, 29 and a rest


@pytest.fixture
def tokens() -> Tokens:
    random = np.random.default_rng(0)
    return Tokens(random.integers(0, 256, size=sum(LENGTHS)).astype(np.uint16), np.cumsum([0, *LENGTHS]))


@pytest.mark.parametrize("memory", [Plain(), Checkpoint(), Stream(chunk_length=8)], ids=lambda memory: memory.word)
def test_loss_and_gradient_are_those_of_single_documents(memory: Any, tokens: Tokens, build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("data.packing=best_fit", "context=none", "context.target_length=32")
    model = job.model.build(257, 0)
    model.network.double()
    model.extend(job.strategy, 32, 32)
    sequences = PackedSequences(tokens, 32, 0)
    batch = sequences.batch(0, len(sequences))
    assert not batch.scored.all()
    (example,) = Causal().examples(batch, model)
    loss = memory.prepare(model, 32).backward(model, example)
    gradients = {name: p.grad.clone() for name, p in model.network.named_parameters()}
    model.network.zero_grad()

    pieces = [torch.from_numpy(tokens.flat[a:b].astype(np.int64)) for a, b in zip(tokens.bounds[:-1], tokens.bounds[1:], strict=True)]
    pieces = [piece[i : i + 33] for piece in pieces for i in range(0, max(1, len(piece) - 1), 32)]
    total, count = torch.zeros((), dtype=torch.float64), 0
    for piece in pieces:
        logits = model.network(input_ids=piece[None, :-1]).logits[0]
        total = total + F.cross_entropy(logits, piece[1:], reduction="sum")
        count += len(piece) - 1
    mean = total / count
    mean.backward()
    assert loss == pytest.approx(mean.item(), rel=1e-12)
    for name, parameter in model.network.named_parameters():
        assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


OTHERS = [
    ("gpt", "distillation", []),
    ("gpt", "restore", ["batch_tokens=512"]),
    ("gpt", "longce", []),
    ("gpt", "bidirectional", []),
    ("bert", "masked", []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "objective", "more"), OTHERS, ids=[objective for _, objective, _ in OTHERS])
def test_runs_with_packing_finish_with_every_objective(model: str, objective: str, more: list[str], ran: Callable[..., Any]) -> None:
    context = ["context=interpolate"] if model == "bert" else []
    words = ["data.packing=best_fit", "data.max_length=3200", "evaluation=[]", "context.curriculum.base.steps=1", "steps=2"]
    _, results = ran("run", f"model={model}", f"objective={objective}", *context, *words, *more)
    assert results["data"]["sources"]["text"]["cuts"] > 0
