"""`memory=plain` gives the same loss and gradients for every size of micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from elongate.memory.plain import Plain
from elongate.objectives.objective import Example


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_tokens", [1, 20, 40, 1000])
@pytest.mark.parametrize("documents", [False, True])
def test_loss_and_gradients_do_not_depend_on_the_micro_batches(
    build_tiny: Callable[..., Any], micro_batch_tokens: int, documents: bool
) -> None:
    model = build_tiny().model.build(257, seed=0)
    model.network.double()
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(257, (5, 21), generator=draw)
    # The rows have different numbers of scored tokens, and one has none, so a mean of means would be wrong.
    scored = torch.rand(5, 20, generator=draw) < torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])[:, None]
    positions = (torch.arange(20) % 7).expand(5, 20).contiguous() if documents else None
    example = Example(tokens[:, :-1], tokens[:, 1:], scored, positions)

    # transformers isolates documents whose positions restart only with its own attention.
    model.network.set_attn_implementation("sdpa")
    logits = model.network(input_ids=example.inputs, position_ids=positions, use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits[scored], example.targets[scored])
    expected.backward()
    theirs = {name: p.grad.clone() for name, p in model.network.named_parameters()}
    model.network.zero_grad()
    model.network.set_attn_implementation("elongate")
    loss = Plain(micro_batch_tokens=micro_batch_tokens).backward(model, example)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for name, p in model.network.named_parameters():
        assert_close(p.grad, theirs[name], rtol=1e-9, atol=1e-12)
