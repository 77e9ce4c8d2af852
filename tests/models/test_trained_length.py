"""The trained length that a configuration states, and networks that are extended by it alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import BloomConfig, BloomForCausalLM, MptConfig, MptForCausalLM, PreTrainedModel, XLNetConfig, XLNetLMHeadModel

from elongate.context.position.none import Unchanged
from elongate.errors import ConfigError
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained

LENGTH, TARGET = 16, 64


def bloom() -> PreTrainedModel:
    return BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4, seq_length=LENGTH))


def mpt() -> PreTrainedModel:
    return MptForCausalLM(MptConfig(vocab_size=64, d_model=32, n_layers=1, n_heads=4, max_seq_len=LENGTH))


@pytest.mark.parametrize("made", [bloom, mpt])
def test_a_network_with_slopes_reads_longer_texts_and_states_so(made: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = made().eval()
    key = "seq_length" if made is bloom else "max_seq_len"
    expected = copy.deepcopy(network)
    model = LanguageModel(network, word="pretrained")
    assert model.original_length == LENGTH
    model.place(Unchanged(), LENGTH, TARGET)
    assert getattr(network.config, key) == model.original_length == TARGET
    setattr(expected.config, key, TARGET)
    tokens = torch.arange(TARGET)[None]
    with torch.no_grad():
        assert_close(model.logits(model.hidden(tokens)), expected(tokens).logits)
    network.save_pretrained(tmp_path)
    assert Pretrained(source=str(tmp_path)).original_length == TARGET


def test_a_network_without_a_stated_length_is_refused() -> None:
    network = XLNetLMHeadModel(XLNetConfig(vocab_size=64, d_model=32, n_layer=1, n_head=4, d_inner=32))
    with pytest.raises(ConfigError, match="xlnet, whose configuration does not say how long it was trained"):
        _ = LanguageModel(network, word="pretrained").original_length
