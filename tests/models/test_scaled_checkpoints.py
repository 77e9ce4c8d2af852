"""Checkpoints that were extended before: a scaling starts from their original or from their current frequencies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.covering import all_values
from tests.models.small import LENGTH, SCALINGS, TOKENS, VOCAB, opened, saved, strategy
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.models.compatibility import check_strategy
from elongate.models.language_model import LanguageModel
from elongate.training.export import export

THETA, SCALED, TARGET = 10000.0, 64, 128  # the checkpoint was pretrained on 32 tokens and scaled to 64
PAIRS = 8
SHORT, LONG = [1.0] * PAIRS, [1 + i / 4 for i in range(PAIRS)]
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": LENGTH},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": LENGTH},
    "longrope": {"short_factor": SHORT, "long_factor": LONG, "factor": 2.0, "original_max_position_embeddings": LENGTH},
}
ACTING = [word for word in SCALINGS if word != "none"]
SHAPE = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def network(rope_type: str, **more: Any) -> PreTrainedModel:
    """A Llama with the same weights for every rope type."""
    # transformers reads the pretrained length of dynamic NTK from this key.
    length = LENGTH if rope_type in ("default", "dynamic") else SCALED
    parameters = {"rope_type": rope_type, "rope_theta": THETA, **CHECKPOINTS.get(rope_type, {}), **more}
    torch.manual_seed(0)
    built = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=length, rope_parameters=parameters))
    for name, weights in built.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(weights, std=0.5)
    return built


def logits(model: LanguageModel, length: int) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(TOKENS[:, :length]))


def assert_plain_transformers_agrees(model: LanguageModel, folder: Path) -> None:
    export(model, ByteTokenizer(), folder)
    for length in (LENGTH, SCALED, TARGET):
        # Open it for each length: dynamic NTK remembers the longest text.
        plain = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            assert_close(plain(TOKENS[:, :length]).logits, logits(model, length), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "word"), all_values(CHECKPOINTS, ACTING))
def test_from_the_original_a_scaled_model_becomes_what_the_plain_one_becomes(kind: str, word: str, tmp_path: Path) -> None:
    plain = LanguageModel(network("default"), "llama")
    plain.extend(strategy(word, target_length=TARGET), LENGTH, TARGET)
    scaled, chosen = opened(saved(network(kind), tmp_path / "scaled")), strategy(word, target_length=TARGET)
    before = logits(scaled, SCALED)
    length = scaled.original_length
    check_strategy(scaled, chosen, length)
    evidence = scaled.extend(chosen, length, TARGET)
    assert evidence["from"] == "original"
    assert evidence["pretrained_length"] == LENGTH
    for length in (LENGTH, SCALED, TARGET):
        assert_close(logits(scaled, length), logits(plain, length), rtol=0, atol=2e-5)
    assert (logits(scaled, SCALED) - before).abs().max() > 1e-3
    assert_plain_transformers_agrees(scaled, tmp_path / "extended")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({*CHECKPOINTS} - {"dynamic"}))
def test_from_the_current_frequencies_each_pair_is_slowed_as_in_a_plain_model(kind: str, tmp_path: Path) -> None:
    plain = THETA ** -(np.arange(PAIRS) / PAIRS)
    present = {
        "linear": plain / 2,
        "llama3": _llama3(plain),
        "yarn": _yarn(plain, LENGTH),
        "longrope": plain / LONG,
    }[kind]
    # 0.1 ln 2 + 1 is YaRN's attention factor for the factor of 2, the square root is LongRoPE's.
    attention = {"yarn": 0.1 * math.log(2) + 1, "longrope": math.sqrt(1 + math.log(2) / math.log(LENGTH))}.get(kind, 1.0)
    slowed = {"pi": plain / 2, "yarn": _yarn(plain, SCALED), "abf": 500000.0 ** -(np.arange(PAIRS) / PAIRS)}
    for word, frequencies in slowed.items():
        model, chosen = opened(saved(network(kind), tmp_path / "scaled")), strategy(word, target_length=TARGET, from_="current")
        check_strategy(model, chosen, SCALED)
        evidence = model.extend(chosen, SCALED, TARGET)
        assert evidence["from"] == "current"
        np.testing.assert_allclose(evidence["frequencies"], present * frequencies / plain, rtol=1e-6)
        factor = attention * (0.1 * math.log(2) + 1 if word == "yarn" else 1)
        assert evidence["attention_factor"] == pytest.approx(factor, rel=1e-6)
        assert_plain_transformers_agrees(model, tmp_path / word)


def _llama3(plain: np.ndarray) -> np.ndarray:
    """Meta's rule: pairs that turn 4 times within the length are kept, once or less are halved, blended in between."""
    turns = LENGTH * plain / (2 * math.pi)
    share = np.clip((turns - 1) / (4 - 1), 0, 1)
    return plain / 2 * (1 - share) + plain * share


def _yarn(plain: np.ndarray, length: int) -> np.ndarray:
    """YaRN by a factor of 2 with its betas of 32 and 1."""
    low, high = (PAIRS * math.log(length / (2 * math.pi * turns)) / math.log(THETA) for turns in (32, 1))
    low, high = max(math.floor(low), 0), min(math.ceil(high), 2 * PAIRS - 1)
    share = np.clip((np.arange(PAIRS) - low) / (high - low), 0, 1)
    return plain / 2 * share + plain * (1 - share)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["original", "current"])
def test_layers_that_see_the_whole_text_are_scaled_again(start: str, tmp_path: Path) -> None:
    shape = SHAPE | {"num_attention_heads": 2, "head_dim": 16, "num_key_value_heads": 1}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    parameters = {
        "sliding_attention": {"rope_type": "default", "rope_theta": THETA},
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": THETA},
    }
    config = Gemma3TextConfig(**shape, **layers, rope_parameters=parameters, max_position_embeddings=SCALED)
    model = opened(saved(Gemma3ForCausalLM(config), tmp_path / "gemma"))
    local = model.network.model.rotary_emb.sliding_attention_inv_freq.clone()
    evidence = model.extend(strategy("pi", target_length=TARGET, from_=start), SCALED, TARGET)
    np.testing.assert_allclose(evidence["frequencies"], THETA ** -(np.arange(8) / 8) / 4, rtol=1e-6)
    assert_close(model.network.model.rotary_emb.sliding_attention_inv_freq, local)
    assert_plain_transformers_agrees(model, tmp_path / "extended")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["original", "current"])
def test_phi3_which_takes_only_lists_of_factors(start: str, tmp_path: Path) -> None:
    parameters = {"rope_type": "longrope", "rope_theta": THETA, "short_factor": SHORT, "long_factor": LONG}
    config = Phi3Config(
        **SHAPE, max_position_embeddings=SCALED, original_max_position_embeddings=LENGTH, rope_parameters=parameters, pad_token_id=0
    )
    model = opened(saved(Phi3ForCausalLM(config), tmp_path / "phi"))
    with pytest.raises(ConfigError, match=r"dynamic_ntk: cannot act on a phi3 whose configuration only takes .*; use context=none"):
        check_strategy(model, strategy("dynamic_ntk", target_length=TARGET), SCALED)
    for word in ("yarn", "abf", "longrope"):
        evidence = model.extend(strategy(word, target_length=TARGET, from_=start), SCALED, TARGET)
        assert evidence["pretrained_length"] == LENGTH
        assert_plain_transformers_agrees(model, tmp_path / word)


@pytest.mark.parametrize(
    ("built", "start", "reason"),
    [
        ("dynamic", "current", r"with context.from=current, because .* no fixed ratio; use context.from=original"),
        ("mscale", "original", r"whose softmax scale depends on its YaRN parameters \(mscale_all_dim\); use context=none"),
    ],
)
def test_a_start_that_is_not_defined_is_refused(built: str, start: str, reason: str, tmp_path: Path) -> None:
    more = {"mscale": 1.0, "mscale_all_dim": 1.0} if built == "mscale" else {}
    model = opened(saved(network("yarn" if built == "mscale" else built, **more), tmp_path / "scaled"))
    with pytest.raises(ConfigError, match=rf"context/position=pi: cannot act on a llama,? {reason}"):
        check_strategy(model, strategy("pi", target_length=TARGET, from_=start), model.original_length)
    check_strategy(model, strategy("none", target_length=TARGET, from_=start), model.original_length)
