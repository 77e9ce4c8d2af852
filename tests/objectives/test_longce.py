"""Weights compared with a slow computation that reads the contexts of each token alone, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.covering import all_pairs
from tests.memory.test_bytes import Bytes
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
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

ROWS, LENGTH, SHORT, STRIDE = 2, 21, 8, 3  # the last window contains two scored tokens
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(ROWS, LENGTH + 1))
DOCUMENTS = [[3, 13, 6], [22]]  # lengths, row by row; the last one is cut at the end


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


@cache
def slow_gains(kind: str, isolated: bool) -> np.ndarray:
    """Loss with the short context minus loss with the whole one, token by token.

    A short context begins at a multiple of the stride; neither context reaches beyond the document.
    """
    theirs = network(kind, "sdpa")
    gains = np.zeros((ROWS, LENGTH))
    for row in range(ROWS):
        ends = np.cumsum(DOCUMENTS[row]) if isolated else [LENGTH + 1]
        for target in range(1, LENGTH + 1):
            document = max([0, *(end for end in ends if end <= target)])
            windows = [start for start in range(0, LENGTH, STRIDE) if target - SHORT <= start]
            start = max(document, windows[0])  # the first window that contains the target
            if document < target and document < start:
                whole, short = (loss_of(theirs, TOKENS[row, at:target], TOKENS[row, target]) for at in (document, start))
                gains[row, target - 1] = short - whole
    return gains


def slow_weights(kind: str, isolated: bool, max_weight: float) -> np.ndarray:
    return np.minimum(np.exp(slow_gains(kind, isolated)), max_weight)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "isolated", "tokens_at_once"), all_pairs(["llama-2", "gpt2"], [False, True], [4, 7, 512]))
def test_weights_are_those_of_every_token_computed_alone(
    kind: str, isolated: bool, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longce, "TOKENS", tokens_at_once)
    objective = LongCE(short_length=SHORT, stride=STRIDE, max_weight=1.4)
    (example,) = objective.examples(batch(isolated), language_model(kind))
    expected = slow_weights(kind, isolated, 1.4)
    assert (expected == 1.4).any()
    assert (expected < 0.9).any()
    assert example.weights is not None
    found = example.weights[example.scored]
    assert_close(found, torch.from_numpy(expected)[example.scored], rtol=1e-10, atol=1e-10)


def test_a_token_whose_short_context_is_the_whole_one_weighs_1() -> None:
    for isolated in (False, True):
        (example,) = LongCE(short_length=SHORT, stride=STRIDE).examples(batch(isolated), language_model("llama-2"))
        assert example.weights is not None
        assert (example.weights[:, :SHORT] == 1).all()
        assert (example.weights[1, SHORT:] != 1).all()
        if isolated:
            # Its third document begins at input 16, the windows of its tokens at 12 or before.
            assert (example.weights[0, 16:] == 1).all()


def test_sequences_within_the_short_context_are_not_weighed() -> None:
    (example,) = LongCE(short_length=LENGTH, stride=1).examples(batch(), language_model("llama-2"))
    assert example.weights is None


@pytest.mark.slow
@pytest.mark.parametrize("memory", [Plain(), Plain(micro_batch_tokens=1), Stream(chunk_length=5)], ids=["plain", "rows", "stream"])
def test_loss_and_gradient_are_those_of_the_formula_with_fixed_weights(memory: Plain | Stream) -> None:
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


def test_weighing_uses_no_dropout_and_no_random_numbers() -> None:
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


def test_a_context_that_no_token_sees_gives_weights_of_1() -> None:
    """Attention that reaches less far than the window computes the same in both contexts."""
    model = language_model("llama-2")
    model.attention = WindowPattern(2)  # two layers of it: a token sees two before it
    (example,) = LongCE(short_length=SHORT, stride=STRIDE).examples(batch(), model)
    # Angles are float32, and a window counts positions from its own start.
    assert_close(example.weights, torch.ones(ROWS, LENGTH, dtype=torch.float64), rtol=0, atol=1e-5)


def weighing_bytes(length: int) -> int:
    """Peak memory of computing the weights of one sequence."""
    model = LanguageModel(network("llama-2", "elongate", torch.float32, num_hidden_layers=LAYERS), "llama")
    assert model.meets_in_attention  # the probe is not counted
    tokens = (np.arange(length + 1) * 7 % VOCAB)[None]
    with Bytes([*model.network.parameters(), *model.network.buffers()]) as counting:
        LongCE(short_length=32, stride=16).examples(Batch(tokens, None, None), model)
    return counting.peak


LAYERS = 4


@pytest.mark.slow
def test_weighing_takes_less_memory_per_token_than_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longce, "TOKENS", 16)
    kv_heads, dim, bytes_per_number = 2, 4, 4
    keys_and_values = 2 * LAYERS * kv_heads * dim * bytes_per_number
    # A stream stores keys, values and their gradients.
    assert (weighing_bytes(96) - weighing_bytes(64)) / 32 < 2 * keys_and_values


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"short_length": 1}, "short_length=1: must be at least 2"),
        ({"stride": 0}, "stride=0: must be at least 1"),
        ({"short_length": 8, "stride": 9}, "stride=9: must be at most short_length=8; use stride=2"),
        ({"max_weight": 0.5}, "max_weight=0.5: must be at least 1"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LongCE(**fields)


def test_defaults_follow_the_original_length() -> None:
    objective = LongCE().bind(frozenset({"causal"}), 32)
    assert (objective.short_length, objective.stride) == (32, 8)
    with pytest.raises(ConfigError, match="stride=33: must be at most short_length=32"):
        LongCE(stride=33).bind(frozenset({"causal"}), 32)


def test_a_short_context_as_long_as_the_sequences_is_refused() -> None:
    message = "short_length=128: is not below the length of 128 tokens: .*use short_length=32, or objective=causal"
    with pytest.raises(ConfigError, match=message):
        LongCE(short_length=128).check_length(128, 32)


@pytest.mark.slow
def test_a_job_binds_its_objective(build_tiny: Callable[..., Any]) -> None:
    objective = build_tiny("objective=longce").objective
    assert (objective.short_length, objective.stride) == (32, 8)
    with pytest.raises(ConfigError, match=r"objective\.stride=33: must be at most short_length=32"):
        build_tiny("objective=longce", "objective.stride=33")


@pytest.mark.slow
def test_a_run_weighs_tokens_in_the_extension_and_not_in_the_base(
    build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path
) -> None:
    small = ["data=text", f"data.path={text_folder}", "context.curriculum.base.steps=2", "evaluation=[]"]
    small += [f"context.curriculum.base.directory={tmp_path}/bases"]
    losses: dict[str, list[float]] = {}
    for word in ("causal", "longce"):
        (tmp_path / word).mkdir()
        directory = RunDirectory(tmp_path / word)
        assert run(build_tiny(*small, f"objective={word}"), directory)["strategy"]["objective"] == word
        losses[word] = [line["loss"] for line in directory.read_metrics()]
    assert losses["longce"][:2] == losses["causal"][:2]
    assert all(mine != theirs for mine, theirs in zip(losses["longce"][2:], losses["causal"][2:], strict=True))
