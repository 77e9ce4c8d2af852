"""Distillation under every memory plan, compared with autograd over the whole logits of transformers, in float64."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.covering import all_pairs
from tests.memory.plans import PLANS, QUICK
from tests.networks import VOCAB, network
from torch import Tensor
from torch.nn import functional as F

from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.models.language_model import LanguageModel
from elongate.objectives import teacher as module
from elongate.objectives.distillation import Distillation
from elongate.objectives.restore import Restore
from elongate.objectives.teacher import Kind, Teacher

ROWS, LENGTH = 2, 20
ALPHA, TEMPERATURE = 0.3, 2.0
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(ROWS, LENGTH + 1))
DOCUMENTS = [[1, 8, 12], [14, 7]]  # lengths, row by row
KINDS = get_args(Kind)
WORDS = 6  # rows of padding in the teacher's table


def batch(form: str) -> Batch:
    """Plain text, isolated documents, or two pieces of a longer text at sampled positions."""
    if form == "documents":
        positions = np.stack([np.concatenate([np.arange(n) for n in row]) for row in DOCUMENTS])
        return Batch(TOKENS, positions[:, :-1], positions == 0)
    if form == "sampled":
        seams = np.zeros(TOKENS.shape, dtype=bool)
        seams[:, 9] = True
        return Batch(TOKENS, np.stack([np.arange(LENGTH) + np.where(np.arange(LENGTH) < 9, 0, skip) for skip in (7, 30)]), seams)
    return Batch(TOKENS, None, None)


@cache
def taught(reach: int) -> Teacher:
    """A teacher of another architecture and width, with a padded vocabulary, trained on `reach` tokens."""
    return Teacher(LanguageModel(network("gpt2", "elongate", vocab_size=VOCAB + WORDS, n_embd=48, n_positions=reach), "gpt2"), reach)


def objective(kind: str, reach: int) -> Any:
    return Distillation(divergence=kind, alpha=ALPHA, temperature=TEMPERATURE).opened(taught(reach))


def whole_logits(form: str, who: str, reach: int) -> Tensor:
    """The logits of transformers, each document alone at the positions that the model reads it at."""
    fields = {"vocab_size": VOCAB + WORDS, "n_embd": 48, "n_positions": reach} if who == "gpt2" else {}
    model, tokens, given = network(who, **fields), torch.from_numpy(TOKENS[:, :-1]), batch(form)
    rows = []
    for row in range(ROWS):
        lengths = [*DOCUMENTS[row][:-1], DOCUMENTS[row][-1] - 1] if form == "documents" else [LENGTH]
        logits = []
        for part in tokens[row].split(lengths):
            part = part[:reach] if who == "gpt2" else part
            positions = torch.arange(len(part))
            if form == "sampled" and who != "gpt2":
                positions = torch.from_numpy(given.positions[row])
            logits.append(model(input_ids=part[None], position_ids=positions[None]).logits[0])
            if who == "gpt2":  # tokens behind those that the teacher knows
                missing = lengths[len(logits) - 1] - len(part)
                logits[-1] = F.pad(logits[-1], (0, 0, 0, missing), value=float("nan"))
        rows.append(torch.cat(logits))
    return torch.stack(rows), model


@cache
def expected(form: str, kind: str, reach: int) -> tuple[float, dict[str, Tensor]]:
    """The loss from its definition, and its gradient by autograd."""
    logits, student = whole_logits(form, "llama-2", reach)
    with torch.no_grad():
        theirs = whole_logits(form, "gpt2", reach)[0][..., :VOCAB]
    targets, starts = torch.from_numpy(TOKENS[:, 1:]), batch(form).starts
    losses = F.cross_entropy(logits.mT, targets, reduction="none")
    known = ~theirs.isnan().any(-1)
    assert known.all() == (reach > LENGTH)
    q, p = (torch.softmax(z[known] / TEMPERATURE, -1) for z in (logits, theirs))
    mean = (p + q) / 2
    ways = {"forward_kl": [(p, q, 1.0)], "reverse_kl": [(q, p, 1.0)], "jensen_shannon": [(p, mean, 0.5), (q, mean, 0.5)]}
    distance = sum(share * (one * (one / other).log()).sum(-1) for one, other, share in ways[kind])
    mixed = losses.clone()
    mixed[known] = ALPHA * losses[known] + (1 - ALPHA) * TEMPERATURE**2 * distance
    loss = mixed.mean() if starts is None else mixed[~torch.from_numpy(starts[:, 1:])].mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in student.named_parameters()}


MAIN = ["plain row by row", "checkpoint", "stream 7", "stream 8 recomputed on disk"]
OTHERS = [pytest.param(plan, kind, "documents", 9, 3, marks=pytest.mark.grid) for plan in QUICK if plan not in MAIN for kind in KINDS]


@pytest.mark.parametrize(
    ("plan", "kind", "form", "reach", "at_once"),
    [*all_pairs(MAIN, KINDS, ["plain", "documents", "sampled"], [64, 9], [3, 2048]), *OTHERS],
)
def test_loss_and_gradients_equal_those_of_whole_logits(
    plan: str, kind: str, form: str, reach: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS", at_once)
    model = LanguageModel(network("llama-2", "elongate"), "llama-2")
    (example,) = objective(kind, reach).examples(batch(form), model)
    loss = PLANS[plan].prepare(model, LENGTH).backward(model, example)
    expected_loss, gradients = expected(form, kind, reach)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name, parameter in model.network.named_parameters():
        wanted = gradients[name]
        assert (parameter.grad - wanted).norm() <= 1e-12 * wanted.norm(), name


def test_tables_that_are_switched_off_stay_on_in_a_teacher_that_shares_them() -> None:
    student, original = (LanguageModel(network("gpt2", "elongate"), "gpt2") for _ in range(2))
    student.network.requires_grad_(False)
    teacher = Teacher(original, 64)
    teacher.share(dict(student.network.named_parameters()))
    tables = student.network.transformer.wpe, teacher.model.network.transformer.wpe
    assert tables[0].weight.data_ptr() == tables[1].weight.data_ptr()
    student.positions.learned.switch_off(64)
    assert not tables[0].weight.any()
    assert tables[1].weight.all()


@pytest.mark.parametrize(
    ("cls", "fields", "line"),
    [
        (Distillation, {"alpha": 1.0}, "alpha=1.0: must be at least 0 and below 1; use alpha=0.5, or objective=causal without a teacher"),
        (Distillation, {"temperature": 0.0}, "temperature=0.0: must be above 0; use temperature=1"),
        (
            Distillation,
            {"divergence": "kl"},
            "divergence=kl: must be one of forward_kl, reverse_kl, jensen_shannon; use",
        ),
        (Restore, {"weight": 0.0}, "weight=0.0: must be above 0; use weight=5, or objective=causal"),
        (Restore, {"short_ratio": 1.0}, "short_ratio=1.0: must be in (0, 1); use short_ratio=0.25, or objective=causal"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(cls: type, fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**fields)
    assert str(caught.value).startswith(line)
