"""A causal model: losses and answers compared with transformers' logits and with whole passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tests.exotic import exotic
from tests.networks import VOCAB, network
from torch.nn import functional as F

from elongate.context.attention.self_extend import SelfExtend
from elongate.context.attention.window import Window
from elongate.models.language_model import LanguageModel
from elongate.scoring.left_to_right import LeftToRight

TEXTS = np.random.default_rng(0).integers(VOCAB, size=(3, 24))
SIZE = 4  # tokens of an answer


def built(kind: str) -> LanguageModel:
    return LanguageModel(network(kind, "elongate").eval(), kind)


@pytest.mark.parametrize("kind", ["llama-2", "gpt2"])
def test_losses_are_those_of_transformers(kind: str) -> None:
    tokens = torch.from_numpy(TEXTS)
    with torch.no_grad():
        logits = network(kind).eval()(tokens).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(3, -1)
    losses = LeftToRight().losses(built(kind), TEXTS, original_length=8)
    assert np.isnan(losses[:, 0]).all()
    assert_allclose(losses[:, 1:], expected, rtol=1e-10)


def test_losses_beyond_the_table_of_positions_are_nan() -> None:
    text = np.tile(TEXTS[:1], 3)[:, :70]
    losses = LeftToRight().losses(built("gpt2"), text, original_length=64)  # 64 positions
    assert np.isnan(losses[0, 64:]).all()
    assert not np.isnan(losses[0, 1:64]).any()


@pytest.mark.parametrize("attention", [None, Window(window_length=6), SelfExtend(window_length=6)], ids=str)
def test_an_answer_is_as_likely_as_its_tokens_in_one_pass(attention: Any) -> None:
    model = built("llama-2")
    if attention is not None:
        model.attend(attention, 16, 64)
    prefix, wrong = TEXTS[:, :-SIZE], (TEXTS[:, -SIZE:] + 1) % VOCAB
    choices = np.stack([TEXTS[:, -SIZE:], wrong], axis=1)
    totals, _ = LeftToRight().answers(model, prefix, choices)
    for number in range(2):
        text = np.concatenate([prefix, choices[:, number]], axis=1)
        losses = LeftToRight().losses(model, text, original_length=16)[:, -SIZE:]
        assert_allclose(totals[:, number], -losses.sum(axis=1), rtol=1e-10)


def test_an_answer_of_one_token_needs_one_pass() -> None:
    model = built("llama-2")
    totals, _ = LeftToRight().answers(model, TEXTS[:, :-1], TEXTS[:, None, -1:])
    assert_allclose(totals[:, 0], -LeftToRight().losses(model, TEXTS, original_length=16)[:, -1], rtol=1e-10)


def test_answers_beyond_the_table_of_positions_are_nan() -> None:
    model, prefix = built("gpt2"), np.tile(TEXTS, 3)
    totals, written = LeftToRight().answers(model, prefix[:, : 65 - SIZE], TEXTS[:, None, :SIZE])
    assert np.isfinite(totals).all()  # the last token of an answer is not read, so 64 positions suffice
    totals, written = LeftToRight().answers(model, prefix[:, : 66 - SIZE], TEXTS[:, None, :SIZE])
    assert np.isnan(totals).all()
    assert not written.any()


# -- caches that cannot be repeated, or do not tell where chunks begin -----------------------------------------------


@pytest.mark.parametrize("kind", ["lfm2", "bamba", "llama4", "gpt_oss"])
def test_answers_and_continuations_are_those_of_transformers_without_a_cache(kind: str) -> None:
    model, plain = LanguageModel(exotic(kind).eval(), kind), exotic(kind, "eager").eval()
    prefix, choices = TEXTS[:, :16], np.stack([TEXTS[:, 16:19], TEXTS[:, 19:22]], axis=1)
    totals, _ = LeftToRight().answers(model, prefix, choices)
    for number in range(2):
        tokens = torch.from_numpy(np.concatenate([prefix, choices[:, number]], axis=1))
        with torch.no_grad():
            chances = plain(tokens, use_cache=False).logits[:, 15:-1].log_softmax(-1)
        assert_allclose(totals[:, number], chances.gather(-1, tokens[:, 16:, None]).sum((1, 2)), rtol=1e-4)
    written = LeftToRight().continuation(model, prefix, 4, lambda tokens: False)
    texts = torch.from_numpy(prefix)
    for _ in range(4):
        with torch.no_grad():
            texts = torch.cat([texts, plain(texts, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert np.array_equal(np.stack(written or []), texts[:, 16:])


def test_a_cache_is_used_where_it_gives_the_same() -> None:
    assert built("llama-2").continues_from_cache
    assert not LanguageModel(exotic("bamba").eval(), "bamba").continues_from_cache
