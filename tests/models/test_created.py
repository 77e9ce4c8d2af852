"""Networks that compute more from their trained length than a table: extended, they equal one that is created longer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LongformerConfig,
    LongformerForMaskedLM,
    MraConfig,
    MraForMaskedLM,
    NystromformerConfig,
    NystromformerForMaskedLM,
)

from elongate.context.position.interpolate import Interpolate
from elongate.models.language_model import LanguageModel

LENGTH, TARGET = 64, 128
SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
ONE = SIZES | {"num_hidden_layers": 1, "max_position_embeddings": LENGTH}
NETWORKS: dict[str, tuple[Any, Any]] = {
    "gpt_neo": (GPTNeoForCausalLM, GPTNeoConfig(**SIZES, num_layers=2, attention_types=[[["global", "local"], 1]], window_size=8)),
    "longformer": (LongformerForMaskedLM, LongformerConfig(**ONE | {"max_position_embeddings": LENGTH + 2}, attention_window=16)),
    "mra": (MraForMaskedLM, MraConfig(**ONE)),
    "nystromformer": (NystromformerForMaskedLM, NystromformerConfig(**ONE)),
}
NETWORKS["gpt_neo"][1].max_position_embeddings = LENGTH


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_an_extended_network_is_one_that_is_created_longer(kind: str) -> None:
    made, config = NETWORKS[kind]
    torch.manual_seed(0)
    network = made(config).eval()
    model = LanguageModel(network, word="pretrained")
    assert model.original_length == LENGTH
    model.place(Interpolate(), LENGTH, TARGET)
    assert model.original_length == TARGET
    created = made(network.config).eval()
    created.load_state_dict(network.state_dict())
    tokens = (torch.arange(TARGET)[None] * 7 + 3) % 60 + 3
    with torch.no_grad():
        assert_close(model.logits(model.hidden(tokens)), created(tokens).logits)
