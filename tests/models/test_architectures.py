"""Fresh models: what they have, which tokens they see, and that the transform before the head is transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import small
from tests.models.autoencoders import autoencoder
from tests.models.small import LENGTH as ORIGINAL
from tests.models.small import TARGET, strategy
from tests.networks import VOCAB
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
)

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.models.bert import Bert, sinusoids
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.models.compatibility import check_head
from elongate.models.gpt import Gpt
from elongate.models.gpt2 import Gpt2
from elongate.models.language_model import LanguageModel
from elongate.models.model import Model
from elongate.models.modernbert import ModernBert
from elongate.training.export import export

FRESH: dict[str, type[Any]] = {"gpt": Gpt, "gpt2": Gpt2, "bert": Bert, "modernbert": ModernBert}
LEARNED = ["gpt2", "bert"]
LENGTH, AT = 20, 9


def chosen(word: str, **fields: Any) -> Model:
    """A tiny model as the configuration describes it."""
    return FRESH[word](**small.SIZES | fields)


def built(word: str, **fields: Any) -> LanguageModel:
    """A tiny model in float64, without dropout, whose attention depends on the tokens."""
    model = chosen(word, **fields).build(VOCAB, seed=0)
    model.network.double().eval()
    draw = torch.Generator().manual_seed(0)
    for parameter in model.network.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.3, generator=draw)
    return model


@pytest.mark.parametrize("word", FRESH)
def test_a_model_has_the_properties_that_its_class_states(word: str) -> None:
    assert chosen(word).build(VOCAB, seed=0).has == chosen(word).has


def test_an_autoencoder_has_the_properties_that_its_class_states() -> None:
    model = autoencoder()
    assert model.has == BidirectionalAutoencoder.has
    check_head(model)


@pytest.mark.parametrize("word", FRESH)
def test_attention_has_no_dropout_by_default(word: str) -> None:
    config = chosen(word).build(VOCAB, seed=0).network.config
    rates = [getattr(config, name, 0) for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")]
    assert rates == [0, 0, 0]


@pytest.mark.parametrize("word", LEARNED)
def test_dropout_is_that_of_the_configuration(word: str) -> None:
    network = chosen(word, dropout=0.3, attention_dropout=0.2).build(VOCAB, seed=0).network
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} >= {0.3}
    # Two passes draw different dropouts.
    tokens = torch.arange(LENGTH)[None] % VOCAB
    assert (network.train()(tokens).logits - network(tokens).logits).abs().max() > 0


# -- which tokens a token sees -----------------------------------------------------------------


def dependence(model: LanguageModel, rows: Tensor) -> Tensor:
    """How much the state of token `AT` depends on each row: the sum of the gradient's absolute values."""
    tokens = torch.arange(LENGTH)[None] % VOCAB
    return torch.autograd.grad(model.hidden(tokens)[0, AT].square().sum(), rows)[0][:LENGTH].abs().sum(-1)


def position_table(model: LanguageModel) -> Tensor:
    return next(p for name, p in model.network.named_parameters() if name.endswith(("wpe.weight", "position_embeddings.weight")))


@pytest.mark.parametrize("word", FRESH)
def test_a_causal_model_sees_the_past_and_a_bidirectional_one_both_sides(word: str) -> None:
    model = built(word)
    # Token i has row i of the embedding, and hidden states do not depend on a tied head.
    gradient = dependence(model, model.network.get_input_embeddings().weight)
    assert (gradient[: AT + 1] > 0).all()
    assert (gradient[AT + 1 :] == 0).all() if "causal" in model.has else (gradient[AT + 1 :] > 0).all()


@pytest.mark.parametrize("word", LEARNED)
def test_the_table_of_positions_shows_the_same(word: str) -> None:
    model = built(word)
    gradient = dependence(model, position_table(model))
    assert (gradient[: AT + 1] > 0).all()
    assert (gradient[AT + 1 :] == 0).all() if word == "gpt2" else (gradient[AT + 1 :] > 0).all()


def test_a_local_layer_of_modernbert_sees_a_window_and_a_global_one_everything() -> None:
    model = built("modernbert", local_length=6)
    seen: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        gradient = torch.autograd.grad(output[0, AT].square().sum(), inputs[0], retain_graph=True)[0]
        seen.append(torch.nonzero(gradient[0].abs().sum(-1))[:, 0])

    for layer in model.network.model.layers:
        layer.register_forward_hook(keep)
    model.hidden(torch.arange(LENGTH)[None])
    assert [found.tolist() for found in seen] == [list(range(LENGTH)), list(range(AT - 3, AT + 4))]


# -- extended and exported ---------------------------------------------------------------------


@pytest.mark.parametrize("word", FRESH)
def test_plain_transformers_computes_the_logits_of_the_extended_model(word: str, tmp_path: Path) -> None:
    tokenizer = ByteTokenizer().with_mask()
    model = chosen(word).build(tokenizer.vocab_size, seed=0)
    model.network.eval()
    model.extend(strategy("interpolate" if word in LEARNED else "yarn"), ORIGINAL, TARGET)
    export(model, tokenizer, tmp_path / "model")
    auto = AutoModelForCausalLM if "causal" in model.has else AutoModelForMaskedLM
    opened = auto.from_pretrained(tmp_path / "model")
    assert opened.config.max_position_embeddings == TARGET
    for length in (ORIGINAL, TARGET):
        tokens = small.TOKENS[:, :length]
        with torch.no_grad():
            assert_close(opened(tokens).logits, model.logits(model.hidden(tokens)), rtol=0, atol=1e-5)


def test_a_scaling_acts_on_the_global_layers_of_modernbert_alone() -> None:
    model = chosen("modernbert").build(VOCAB, seed=0)
    rotary = model.network.model.rotary_emb
    before = {layer: getattr(rotary, f"{layer}_inv_freq").clone() for layer in ("full_attention", "sliding_attention")}
    proof = model.extend(strategy("ntk"), ORIGINAL, TARGET)
    rotary = model.network.model.rotary_emb
    assert torch.equal(rotary.sliding_attention_inv_freq, before["sliding_attention"])
    # NTK-aware: theta · 4^(d/(d-2)), by hand.
    assert_close(rotary.full_attention_inv_freq, (10_000.0 * 4 ** (8 / 6)) ** -(torch.arange(0, 8, 2) / 8), rtol=1e-6, atol=0)
    assert not torch.equal(rotary.full_attention_inv_freq, before["full_attention"])
    assert proof["frequency_error"] < 1e-5
    parameters = model.network.config.rope_parameters
    assert parameters["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}
    assert parameters["full_attention"]["rope_theta"] == pytest.approx(10_000.0 * 4 ** (8 / 6))


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0 and below 1; use dropout=0.0"),
        ({"local_length": 7}, "local_length=7: must be even: half of the tokens are on either side; use local_length=8"),
        ({"global_every": 0}, "global_every=0: must be at least 1; use global_every=2"),
        (
            {"dim": 36},
            "dim=36: must be an even multiple of num_heads=4: rotary positions rotate pairs; use dim=32",
        ),
    ],
)
def test_sizes_of_modernbert_that_do_not_fit_are_refused(field: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        chosen("modernbert", **field)
    assert str(refused.value) == line


@pytest.mark.parametrize("dim", [6, 7])
def test_products_of_sinusoids_depend_on_the_distance(dim: int) -> None:
    rows = sinusoids(20, dim)
    assert rows.shape == (20, dim)
    # sin(a) sin(b) + cos(a) cos(b) = cos(a - b): summed over pairs, it depends on the distance alone.
    sines, cosines = rows[:, : dim // 2], rows[:, (dim + 1) // 2 :][:, : dim // 2]
    pairs = sines @ sines.T + cosines @ cosines.T
    for distance in range(20):
        assert_close(pairs.diagonal(distance), pairs[0, distance].expand(20 - distance))
    expected = sum(torch.cos(torch.tensor(2.0) * 10000.0 ** (-2 * pair / dim)) for pair in range(3))
    assert_close(pairs[0, 2], expected)


def test_a_fresh_bert_starts_with_sinusoids_as_large_as_its_words() -> None:
    network = Bert(dim=64).build(VOCAB, seed=0).network
    words, table = (network.bert.embeddings.get_parameter(f"{name}_embeddings.weight") for name in ("word", "position"))
    assert_close(table.square().mean().sqrt(), words.square().mean().sqrt(), rtol=0.05, atol=0)
    assert_close(table / table.norm(), sinusoids(128, 64) / sinusoids(128, 64).norm())
