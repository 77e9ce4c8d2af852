"""The masked objective: transformers' loss and gradients, the shares of the paper, and a mask for every batch."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks import VOCAB, network
from torch.nn import functional as F

from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.models.language_model import LanguageModel
from elongate.objectives.masked import Masked
from elongate.objectives.objective import Example

MASK = VOCAB - 1
PLANS: dict[str, Memory] = {
    "plain": Plain(),
    "plain row by row": Plain(micro_batch_tokens=1),
    "checkpoint": Checkpoint(),
    "checkpoint recomputed": Checkpoint(keep_attention=False, mlp_chunk_length=8, micro_batch_tokens=1),
}


def model_of(kind: str, implementation: str = "elongate") -> LanguageModel:
    model = LanguageModel(network(kind, implementation).train(), kind)
    model.mask_token = MASK
    return model


def batch_of(rows: int = 3, length: int = 40, seed: int = 0) -> Batch:
    return Batch(np.random.default_rng(seed).integers(VOCAB - 1, size=(rows, length + 1)), None, None)


@cache
def bert() -> LanguageModel:
    """A model for tests that do not change it."""
    return model_of("bert")


def masked(batch: Batch, ratio: float = 0.15) -> Example:
    (example,) = Masked(mask_ratio=ratio).examples(batch, bert())
    return example


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_loss_and_gradients_are_those_of_transformers(kind: str, plan: str) -> None:
    """transformers ignores labels of -100."""
    batch = batch_of()
    example = masked(batch)
    reference = network(kind, "sdpa").train()
    tokens = torch.from_numpy(batch.tokens[:, :-1])
    labels = tokens.masked_fill(~example.scored, -100)
    found = reference(input_ids=example.inputs, labels=labels)
    # ModernBERT's own loss rounds the logits to float32.
    assert found.loss.item() == pytest.approx(F.cross_entropy(found.logits.mT, labels).item(), rel=1e-6)
    theirs = found.loss if kind == "bert" else F.cross_entropy(found.logits.mT, labels)
    theirs.backward()

    model = model_of(kind)
    ours = PLANS[plan].prepare(model, 40).backward(model, example)
    assert ours == pytest.approx(theirs.item(), rel=1e-12)
    expected = dict(reference.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in expected.values())
    for name, parameter in model.network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=0, atol=1e-12 * largest, msg=name)


def test_chosen_tokens_are_masked_replaced_and_kept_in_the_shares_of_the_paper() -> None:
    chosen = masked_count = kept = total = 0
    for seed in range(40):
        batch = batch_of(8, 200, seed)
        example = masked(batch)
        tokens = torch.from_numpy(batch.tokens[:, :-1])
        assert torch.equal(example.targets, tokens)
        assert torch.equal(example.inputs[~example.scored], tokens[~example.scored])
        chosen += int(example.scored.sum())
        masked_count += int((example.inputs == MASK).sum())
        kept += int((example.inputs == tokens)[example.scored].sum())
        total += tokens.numel()
    assert chosen == 0.15 * total
    # Of the 10% that are replaced, one in VOCAB is the mask by chance, and one is the token itself.
    shares = {"masked": (masked_count, 0.8 + 0.1 / VOCAB), "kept": (kept, 0.1 + 0.1 / VOCAB)}
    for name, (count, share) in shares.items():
        four_standard_errors = 4 * (share * (1 - share) / chosen) ** 0.5
        assert abs(count / chosen - share) < four_standard_errors, name


def test_the_mask_depends_only_on_the_batch() -> None:
    first, again, other = masked(batch_of()), masked(batch_of()), masked(batch_of(seed=1))
    assert torch.equal(first.scored, again.scored)
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.scored, other.scored)
    rows = {tuple(row.tolist()) for row in first.scored}
    assert len(rows) == len(first.scored)


def test_isolated_documents_do_not_see_each_other() -> None:
    batch = batch_of(1, 40)
    positions = np.concatenate([np.arange(25), np.arange(15)])[None]
    starts = np.zeros((1, 41), dtype=bool)
    starts[0, [0, 25]] = True
    example = masked(Batch(batch.tokens, positions, starts), 0.3)
    model = model_of("bert")
    model.network.eval()
    with torch.no_grad():
        alone = [model.hidden(example.inputs[:, part]) for part in (slice(0, 25), slice(25, 40))]
        torch.testing.assert_close(model.hidden(example.inputs, example.positions), torch.cat(alone, dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_a_ratio_outside_0_and_1_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"mask_ratio={ratio}: must be above 0 and below 1; use mask_ratio=0.15")):
        Masked(mask_ratio=ratio)


@pytest.mark.parametrize(
    ("has", "model", "line"),
    [
        (
            {"causal", "rotary"},
            "gpt",
            "needs a model that fills in what is masked, which model=gpt does not; use objective=causal",
        ),
        (
            {"bidirectional", "autoencoder"},
            "bidirectional_autoencoder",
            "which model=bidirectional_autoencoder does not; use objective=continuation",
        ),
    ],
)
def test_a_model_that_cannot_fill_in_is_refused(has: Any, model: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Masked().check(frozenset(has), model)
    assert str(refused.value).endswith(line)
