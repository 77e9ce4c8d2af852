"""Weights against a computation that reads the short context of each token by itself, with transformers' own attention, in fp64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.memory.test_exactness import Bytes, bytes_per_further_token
from tests.networks import VOCAB, network
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import PreTrainedModel

from elongate.context.attention.window import WindowPattern
from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel
from elongate.objectives import longce
from elongate.objectives.longce import LongCE

ROWS, LENGTH, SHORT, STRIDE = 2, 21, 8, 3  # the last window holds two tokens that are scored
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(ROWS, LENGTH + 1))
DOCUMENTS = [[3, 13, 6], [22]]  # of the tokens, row by row; one is cut by the end


def batch(isolated: bool = False) -> Batch:
    if not isolated:
        return Batch(TOKENS, None, None)
    positions = np.stack([np.concatenate([np.arange(n) for n in row]) for row in DOCUMENTS])
    return Batch(TOKENS, positions[:, :-1], positions == 0)


def language_model(kind: str) -> LanguageModel:
    return LanguageModel(network(kind, "elongate"), kind)


@torch.no_grad()
def loss_of(theirs: PreTrainedModel, context: np.ndarray, token: int) -> float:
    logits = theirs(input_ids=torch.from_numpy(context)[None]).logits[0, -1]
    return float(F.cross_entropy(logits, torch.tensor(token)))


def slow_weights(kind: str, isolated: bool, max_weight: float) -> np.ndarray:
    """Token by token: a short context begins at a multiple of the stride, and neither context reaches beyond the document."""
    theirs = network(kind, "sdpa")
    weights = np.ones((ROWS, LENGTH))
    for row in range(ROWS):
        ends = np.cumsum(DOCUMENTS[row]) if isolated else [LENGTH + 1]
        for target in range(1, LENGTH + 1):
            document = max([0, *(end for end in ends if end <= target)])
            windows = [start for start in range(0, LENGTH, STRIDE) if target - SHORT <= start]  # holds it, and is the first that does
            start = max(document, windows[0])
            if document < target:
                whole, short = (loss_of(theirs, TOKENS[row, at:target], TOKENS[row, target]) for at in (document, start))
                weights[row, target - 1] = min(np.exp(short - whole), max_weight)
    return weights


@pytest.mark.parametrize("tokens_at_once", [4, 7, 512])
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("kind", ["llama-2", "gpt2"])
def test_weights_are_those_of_every_token_by_itself(
    kind: str, isolated: bool, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longce, "TOKENS", tokens_at_once)
    objective = LongCE(short_length=SHORT, stride=STRIDE, max_weight=1.4)
    (example,) = objective.examples(batch(isolated), language_model(kind))
    expected = slow_weights(kind, isolated, 1.4)
    assert (expected == 1.4).any()
    assert (expected < 0.9).any()
    assert example.weights is not None
    assert_close(example.weights[example.scored], torch.from_numpy(expected)[example.scored], rtol=1e-10, atol=1e-10)


def test_a_token_whose_short_context_is_the_whole_one_weighs_exactly_1() -> None:
    for isolated in (False, True):
        (example,) = LongCE(short_length=SHORT, stride=STRIDE).examples(batch(isolated), language_model("llama-2"))
        assert example.weights is not None
        assert (example.weights[:, :SHORT] == 1).all()
        assert (example.weights[1, SHORT:] != 1).all()
        if isolated:
            # Its third document begins with input 16, and the windows of its tokens at 12 or before.
            assert (example.weights[0, 16:] == 1).all()


def test_sequences_that_are_no_longer_than_the_short_context_are_not_weighed() -> None:
    (example,) = LongCE(short_length=LENGTH, stride=1).examples(batch(), language_model("llama-2"))
    assert example.weights is None


@pytest.mark.parametrize("memory", [Plain(), Plain(micro_batch_tokens=1), Stream(chunk_length=5)], ids=["plain", "rows", "stream"])
def test_loss_and_gradient_are_those_of_the_formula_with_weights_held_fixed(memory: Plain | Stream) -> None:
    model, theirs = language_model("llama-2"), network("llama-2", "sdpa")
    (example,) = LongCE(short_length=SHORT, stride=STRIDE).examples(batch(), model)
    assert example.weights is not None
    assert not example.weights.requires_grad
    loss = memory.prepare(model, LENGTH).backward(model, example)

    weights = torch.from_numpy(slow_weights("llama-2", False, 5.0))
    tokens = torch.from_numpy(TOKENS)
    each = F.cross_entropy(theirs(input_ids=tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    expected = each @ weights.flatten() / weights.sum()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for (name, ours), reference in zip(model.network.named_parameters(), theirs.parameters(), strict=True):
        error = (ours.grad - reference.grad).norm() / reference.grad.norm()  # type: ignore[operator]  # gradients are there
        assert error <= 1e-12, f"{name} is off by {error:.1e}"


def test_weighing_knows_no_dropout_draws_nothing_and_leaves_the_network_training() -> None:
    dropped = LanguageModel(network("gpt2", "elongate", resid_pdrop=0.5, embd_pdrop=0.5), "gpt2")
    dropped.network.train()
    state = torch.get_rng_state()
    objective = LongCE(short_length=SHORT, stride=STRIDE)
    (first,), (second,), (without,) = (objective.examples(batch(), model) for model in (dropped, dropped, language_model("gpt2")))
    assert_close(first.weights, second.weights, rtol=0, atol=0)
    assert_close(first.weights, without.weights, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in dropped.network.modules())
    assert all(parameter.grad is None for parameter in dropped.network.parameters())


def test_a_context_that_nobody_sees_gives_everyone_the_weight_1() -> None:
    """Attention that ends within every window: what it computes is the same, so is the loss."""
    model = language_model("llama-2")
    model.attention = WindowPattern(2)  # two layers of it: a token sees two before it
    (example,) = LongCE(short_length=SHORT, stride=STRIDE).examples(batch(), model)
    # Angles are float32, and a window counts its positions anew.
    assert_close(example.weights, torch.ones(ROWS, LENGTH, dtype=torch.float64), rtol=0, atol=1e-5)


def weighing_bytes(length: int) -> int:
    model = LanguageModel(network("llama-2", "elongate", torch.float32, num_hidden_layers=4), "llama")
    tokens = (np.arange(length + 1) * 7 % VOCAB)[None]
    objective = LongCE(short_length=32, stride=16)
    objective.examples(Batch(tokens, None, None), model)
    with Bytes([*model.network.parameters(), *model.network.buffers()]) as counting:
        objective.examples(Batch(tokens, None, None), model)
    return counting.peak


def test_weighing_takes_less_memory_of_a_further_token_than_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longce, "TOKENS", 16)
    assert (weighing_bytes(128) - weighing_bytes(64)) / 64 < bytes_per_further_token(Stream(chunk_length=16, keep_attention=False))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"short_length": 1}, "short_length=1: must be at least 2"),
        ({"stride": 0}, "stride=0: must be at least 1"),
        ({"short_length": 8, "stride": 9}, "stride=9: must be at most short_length=8; use stride=2"),
        ({"max_weight": 0.5}, "max_weight=0.5: must be at least 1"),
    ],
)
def test_fields_out_of_range_are_refused_in_one_line(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        LongCE(**fields)


def test_what_is_left_open_follows_the_model_and_a_short_context_that_is_none_is_refused(build_tiny: Callable[..., Any]) -> None:
    objective = build_tiny("objective=longce").objective
    assert (objective.short_length, objective.stride) == (32, 8)
    with pytest.raises(
        ConfigError, match=r"objective.short_length=128: is not below the length of 128 tokens.*use objective.short_length=32"
    ):
        build_tiny("objective=longce", "objective.short_length=128")
    with pytest.raises(ConfigError, match=r"objective.stride=33: must be at most short_length=32"):
        build_tiny("objective=longce", "objective.stride=33")


def test_a_run_weighs_what_the_original_length_does_not_hold(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path) -> None:
    from elongate.training.run import run
    from elongate.training.run_directory import RunDirectory

    small = ["data=text", f"data.path={text_folder}", "context.curriculum.base.steps=2", "evaluation=[]"]
    small += [f"context.curriculum.base.directory={tmp_path}/bases"]
    lines: dict[str, list[dict[str, Any]]] = {}
    for word in ("causal", "longce"):
        (tmp_path / word).mkdir()
        directory = RunDirectory(tmp_path / word)
        assert run(build_tiny(*small, f"objective={word}"), directory)["strategy"]["objective"] == word
        lines[word] = directory.read_metrics()
        assert json.loads(directory.results.read_text())["finished"]
    base, extension = lines["longce"][:2], lines["longce"][2:]
    assert [line["loss"] for line in base] == [line["loss"] for line in lines["causal"][:2]]
    assert all(mine["loss"] != theirs["loss"] for mine, theirs in zip(extension, lines["causal"][2:], strict=True))
