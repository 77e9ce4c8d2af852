"""A pretrained BERT as the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.autoencoders import (
    BLOCK,
    CONTEXT,
    INPUTS,
    SIZES,
    VOCAB,
    YARN,
    assert_same,
    autoencoder,
    example,
    gradients,
)
from torch.testing import assert_close
from transformers import BertConfig, BertForMaskedLM, BertModel

from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.models.autoencoder.autoencoder import Autoencoder
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.models.compatibility import check_head, check_strategy
from elongate.models.pretrained import Pretrained

BERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 6,
    "hidden_dropout_prob": 0.0,
}


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def with_encoder(bert: Path, **fields: Any) -> Autoencoder:
    return BidirectionalAutoencoder(**SIZES | {"encoder": str(bert)} | fields).build(VOCAB, seed=0)  # type: ignore[return-value]


def test_a_pretrained_bert_is_the_encoder(bert: Path) -> None:
    model, theirs = with_encoder(bert), BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    ours = model.network.model.encoder.bert
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    assert model.network.lm_head.weight is ours.embeddings.word_embeddings.weight
    model.network.eval()
    encoded, _ = model.network.model.encode(CONTEXT)
    assert_close(encoded[0], theirs(CONTEXT.view(4, BLOCK)).last_hidden_state.flatten(0, 1), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("latents", [4, 2])
def test_a_pretrained_encoder_is_trained_block_by_block(latents: int, bert: Path) -> None:
    def built() -> Autoencoder:
        model = with_encoder(bert, latents_per_block=latents)
        model.network.double()
        return model

    whole_loss, whole = gradients(built(), Plain(), example("continuation"))
    loss, parts = gradients(built(), Checkpoint(), example("continuation"))
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    # A bias of the keys adds the same number to all scores of a query, so its gradient is rounding only.
    assert_same(*({n: g for n, g in found.items() if not n.endswith("key.bias")} for found in (parts, whole)), 1e-11)


@pytest.mark.parametrize("latents", [4, 2])
def test_a_model_with_a_pretrained_encoder_is_extended_and_saved(latents: int, bert: Path, tmp_path: Path) -> None:
    model = with_encoder(bert, latents_per_block=latents)
    check_head(model)
    check_strategy(model, YARN, 16)
    before = model.network.eval().model.encode(CONTEXT)[0]
    assert model.extend(YARN, 16, 64)["frequency_error"] < 1e-6
    assert model.last_position(1000) == 1000
    assert_close(model.network.model.encode(CONTEXT)[0], before, rtol=0, atol=0)
    model.save(tmp_path / "saved")
    ours = Pretrained(source=str(tmp_path / "saved")).build(VOCAB, seed=5)
    ours.network.eval()
    assert_close(ours.hidden(INPUTS, context=CONTEXT), model.hidden(INPUTS, context=CONTEXT), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 64}, r"model\.dim=64: must be 32, as in the encoder .*; use model\.dim=32"),
        ({"num_encoder_layers": 1}, r"model\.num_encoder_layers=1: must be 2"),
        (
            {"block_length": 8, "latents_per_block": 8},
            r"model\.block_length=8: exceeds the encoder's 6 positions, and the latents need 0 of them; .*=6",
        ),
        ({"encoder": "./nowhere"}, r"encoder=\./nowhere: there is no such folder"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(fields: dict[str, Any], message: str, bert: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        with_encoder(bert, **fields)


def test_a_checkpoint_of_another_kind_is_refused_as_encoder(tmp_path: Path) -> None:
    autoencoder(torch.float32).save(tmp_path / "other")
    message = r"model\.encoder=.*: is a bidirectional_autoencoder, which cannot be the encoder; name a BERT"
    with pytest.raises(ConfigError, match=message):
        with_encoder(tmp_path / "other")
