"""Restoration under the memory plans, compared with autograd over the hidden states of transformers, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.memory.plans import PLANS
from tests.networks import VOCAB, network
from torch.nn import functional as F

from elongate.data.sequences import Batch
from elongate.models.language_model import LanguageModel
from elongate.objectives.causal import Causal
from elongate.objectives.objective import Objective
from elongate.objectives.restore import Restore
from elongate.objectives.teacher import Teacher

ROWS, LENGTH, SHORT, WEIGHT = 5, 20, 6, 3.0  # two of five sequences are cut into three texts each
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(ROWS, LENGTH + 1))
DOCUMENTS = [4, 5, 12]
OTHER_THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}


def objective() -> Objective:
    return Restore(weight=WEIGHT, short_ratio=0.4).opened(Teacher(LanguageModel(network("llama-2", "elongate"), "original"), SHORT))


def isolated() -> Batch:
    positions = np.tile(np.concatenate([np.arange(n) for n in DOCUMENTS]), (ROWS, 1))
    return Batch(TOKENS, positions[:, :-1], positions == 0)


@pytest.mark.parametrize("plan", ["plain row by row", "checkpoint", "stream 7"])
def test_loss_and_gradients_are_those_of_the_definition(plan: str) -> None:
    original, student = network("llama-2"), network("llama-2", **OTHER_THETA)
    tokens = torch.from_numpy(TOKENS)
    logits = student(input_ids=tokens[:3, :-1]).logits
    short = tokens[3:, : 3 * SHORT].reshape(6, SHORT)
    theirs, ours = (model.model(input_ids=short).last_hidden_state for model in (original, student))
    cosine = (theirs.detach() * ours).sum(-1) / (theirs.detach().norm(dim=-1) * ours.norm(dim=-1))
    expected = F.cross_entropy(logits.mT, tokens[:3, 1:]) + WEIGHT * (1 - cosine).mean()
    expected.backward()
    model = LanguageModel(network("llama-2", "elongate", **OTHER_THETA), "student")
    prepared = PLANS[plan].prepare(model, LENGTH)
    losses = [prepared.backward(model, example) for example in objective().examples(Batch(TOKENS, None, None), model)]
    assert sum(losses) == pytest.approx(expected.item(), rel=1e-12)
    for (name, found), wanted in zip(model.network.named_parameters(), student.parameters(), strict=True):
        assert (found.grad - wanted.grad).norm() <= 1e-12 * wanted.grad.norm(), name


def test_a_model_that_did_not_change_has_nothing_to_restore() -> None:
    model = LanguageModel(network("llama-2", "elongate"), "student")
    long, short = objective().examples(Batch(TOKENS, None, None), model)
    plan = PLANS["plain"].prepare(model, LENGTH)
    assert plan.backward(model, short) == pytest.approx(0, abs=1e-12)
    (alone,) = Causal().examples(Batch(TOKENS[:3], None, None), model)
    assert plan.backward(model, long) == plan.backward(model, alone)


def test_short_texts_keep_their_documents_apart_and_have_plain_positions() -> None:
    model = LanguageModel(network("llama-2", "elongate"), "student")
    _, short = objective().examples(isolated(), model)
    assert short.positions is not None
    assert short.positions[:3].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert short.taught is not None
    assert short.taught.all()
    seams = np.zeros(TOKENS.shape, dtype=bool)
    skipping = Batch(TOKENS, np.tile(np.arange(LENGTH) + 7 * (np.arange(LENGTH) > 9), (ROWS, 1)), seams)
    long, short = objective().examples(skipping, model)
    assert short.positions is None
    assert long.positions is not None


@pytest.mark.parametrize(("rows", "ratio", "expected"), [(2, 0.1, 1), (2, 0.9, 1), (8, 0.25, 2), (8, 0.99, 7)])
def test_every_step_has_long_and_short_texts(rows: int, ratio: float, expected: int) -> None:
    teacher = Teacher(LanguageModel(network("llama-2", "elongate"), "original"), SHORT)
    tokens = np.zeros((rows, LENGTH + 1), dtype=np.int64)
    long, short = Restore(short_ratio=ratio).opened(teacher).examples(Batch(tokens, None, None), teacher.model)
    assert (len(long.inputs), len(short.inputs)) == (rows - expected, expected * (LENGTH // SHORT))
