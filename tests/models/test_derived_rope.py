"""Rotary parameters that transformers derives from the lengths: an extension must not change them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.small import LENGTH, TARGET, TOKENS, VOCAB, opened, saved, strategy
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel

SCALED = 64
PAIRS = 8
LISTS = {"short_factor": [1.0] * PAIRS, "long_factor": [1 + i / 4 for i in range(PAIRS)]}
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": SCALED,
}


def phi3(**more: Any) -> PreTrainedModel:
    """As Phi-3, 3.5 and 4-mini are published: lists without a factor, and the original length outside of them."""
    parameters = {"rope_type": "longrope", **LISTS, **more}
    return Phi3ForCausalLM(Phi3Config(**SHAPE, original_max_position_embeddings=LENGTH, rope_parameters=parameters, pad_token_id=0))


def llama(rope_type: str, **more: Any) -> PreTrainedModel:
    parameters = {"rope_type": rope_type, "original_max_position_embeddings": LENGTH, **more}
    return LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=parameters))


YARN, LONGROPE = 0.1 * math.log(SCALED / LENGTH) + 1, math.sqrt(1 + math.log(SCALED / LENGTH) / math.log(LENGTH))
DERIVED: dict[str, tuple[Any, float]] = {
    "phi3 without factor": (phi3, LONGROPE),
    "longrope without factor": (lambda: llama("longrope", **LISTS), LONGROPE),
    "longrope with a null factor": (lambda: llama("longrope", factor=None, **LISTS), LONGROPE),
    "yarn with a null factor": (lambda: llama("yarn", factor=None), YARN),
    "yarn with mscale": (lambda: llama("yarn", factor=None, mscale=2.0, mscale_all_dim=1.0), (0.2 * math.log(2) + 1) / YARN),
}


@pytest.mark.parametrize("kind", DERIVED)
def test_an_unchanged_position_keeps_its_attention_factor_at_a_longer_length(kind: str, tmp_path: Path) -> None:
    built, factor = DERIVED[kind]
    torch.manual_seed(0)
    network = built().eval()
    for name, weights in network.named_parameters():
        if "q" in name and weights.ndim == 2:
            torch.nn.init.normal_(weights, std=0.5)
    with torch.no_grad():
        trained = network(TOKENS).logits
    model = opened(saved(network, tmp_path / "checkpoint"))
    model.extend(strategy("none", target_length=TARGET), SCALED, TARGET)
    model.save(tmp_path / "export")
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert reopened.config.max_position_embeddings == TARGET
    assert reopened.model.rotary_emb.attention_scaling == pytest.approx(factor, rel=1e-6)
    with torch.no_grad():
        assert_close(reopened(TOKENS).logits, trained, rtol=0, atol=2e-5)
        assert_close(model.logits(model.hidden(TOKENS)), trained, rtol=0, atol=2e-5)
