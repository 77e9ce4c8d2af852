"""Extended learned tables: the rows of the table, the rows that the network looks up, and runs of models with a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tests.covering import all_values
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BioGptConfig,
    BioGptForCausalLM,
    CamembertConfig,
    CamembertForMaskedLM,
    Data2VecTextConfig,
    Data2VecTextForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaXLConfig,
    XLMRobertaXLForMaskedLM,
)

from elongate.context.attention.full import Full
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.interpolate import Interpolate
from elongate.context.position.none import Unchanged
from elongate.context.position.table import Table
from elongate.context.position.tile import Tile
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError
from elongate.memory.planner.planner import advise
from elongate.models.compatibility import check_head, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained

TABLES = {"interpolate": Interpolate(), "tile": Tile()}


def extended(table: Table, length: int) -> Strategy:
    return Strategy(position=table, attention=Full(), curriculum=Fixed(), target_length=length)


# -- the table -------------------------------------------------------------------------------------------------------------

tables = st.builds(
    lambda seed, original, dtype: torch.randn(original, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed)),
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
)


@given(tables, st.integers(1, 9))
def test_every_kth_row_of_an_interpolated_table_is_exactly_an_old_row(rows: torch.Tensor, factor: int) -> None:
    longer = Interpolate().extended(rows, factor * len(rows))
    assert torch.equal(longer[::factor], rows)
    # New rows past the last old row repeat it.
    assert torch.equal(longer[-factor:], rows[-1:].expand(factor, -1))


@given(tables)
@pytest.mark.parametrize("word", TABLES)
def test_factor_one_changes_nothing(word: str, rows: torch.Tensor) -> None:
    assert torch.equal(TABLES[word].extended(rows, len(rows)), rows)


@given(tables, st.integers(0, 100))
def test_an_interpolated_table_equals_numpy_interp(rows: torch.Tensor, more: int) -> None:
    original, length = len(rows), len(rows) + more
    rows = rows.double()
    places = np.arange(length) * (original / length)
    expected = np.stack([np.interp(places, np.arange(original), column) for column in rows.numpy().T], axis=1)
    np.testing.assert_allclose(Interpolate().extended(rows, length).numpy(), expected, rtol=0, atol=1e-12)


@given(tables, st.integers(1, 9))
def test_a_tiled_table_repeats_the_old_one(rows: torch.Tensor, factor: int) -> None:
    assert_array_equal(Tile().extended(rows, factor * len(rows)).numpy(), np.tile(rows.numpy(), (factor, 1)))


@pytest.mark.parametrize(("target", "nearest"), [(33, 64), (79, 64), (81, 96), (1000, 992)])
def test_tile_proposes_the_nearest_multiple(target: int, nearest: int) -> None:
    with pytest.raises(ConfigError) as caught:
        extended(Tile(), target).check_length(32)
    rule = "must be a multiple of the original length of 32: context/position=tile repeats the table"
    assert str(caught.value) == f"context.target_length={target}: {rule}; use context.target_length={nearest}"


# -- networks --------------------------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}
BEHIND_PADDING = SIZES | {"max_position_embeddings": 18}  # two rows are not positions
OF_GPT2 = {"vocab_size": 60, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
OF_DISTILBERT = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 16}
NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**OF_GPT2)),
    "gpt_bigcode": lambda: GPTBigCodeForCausalLM(GPTBigCodeConfig(**OF_GPT2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32)),
    "biogpt": lambda: BioGptForCausalLM(BioGptConfig(**SIZES)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "electra": lambda: ElectraForMaskedLM(ElectraConfig(**SIZES, embedding_size=16)),
    "distilbert": lambda: DistilBertForMaskedLM(DistilBertConfig(**OF_DISTILBERT)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**BEHIND_PADDING)),
    "roberta-prelayernorm": lambda: RobertaPreLayerNormForMaskedLM(RobertaPreLayerNormConfig(**BEHIND_PADDING)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**BEHIND_PADDING)),
    "xlm-roberta-xl": lambda: XLMRobertaXLForMaskedLM(XLMRobertaXLConfig(**BEHIND_PADDING)),
    "camembert": lambda: CamembertForMaskedLM(CamembertConfig(**BEHIND_PADDING)),
    "data2vec-text": lambda: Data2VecTextForMaskedLM(Data2VecTextConfig(**BEHIND_PADDING)),
}
TOKENS = torch.randint(3, 60, (2, 64), generator=torch.Generator().manual_seed(0))  # without padding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of each kind, with large position vectors: those of fresh networks have little effect."""

    def folder(kind: str) -> Path:
        path = tmp_path_factory.getbasetemp() / f"table of {kind}"
        if not path.exists():
            torch.manual_seed(0)
            network = NETWORKS[kind]()
            for name, parameter in network.named_parameters():
                if any(word in name for word in ("wpe", "position_embeddings", "embed_positions")):
                    nn.init.normal_(parameter, std=0.5)
            network.save_pretrained(path)
        return path

    return folder


@pytest.fixture
def opened(folder: Callable[[str], Path]) -> Callable[[str], LanguageModel]:
    return lambda kind: Pretrained(source=str(folder(kind))).build(60, 0)


def logits(model: LanguageModel, tokens: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(tokens, positions))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_rows_for_padding_do_not_count_as_positions(
    kind: str, folder: Callable[[str], Path], opened: Callable[[str], LanguageModel]
) -> None:
    model = opened(kind)
    assert Pretrained(source=str(folder(kind))).original_length == model.original_length == model.positions.learned.length == 16
    assert "learned_positions" in model.has
    check_head(model)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "word"), all_values([*NETWORKS], [*TABLES]))
def test_a_text_at_old_rows_has_the_same_logits(word: str, kind: str, opened: Callable[[str], LanguageModel]) -> None:
    """Old row j is row 4·j of a table that is interpolated four-fold, and rows j, j + 16, j + 32 … of a tiled one."""
    model, tokens = opened(kind), TOKENS[:, :16]
    model.network.double()
    before, numbers = logits(model, tokens), torch.arange(16)[None].expand(2, -1)
    assert_close(logits(model, tokens, numbers), before, rtol=0, atol=1e-12)
    proof = model.extend(extended(TABLES[word], 64), 16, 64)["table"]
    assert (proof["original_length"], proof["length"]) == (16, 64)
    assert proof["row_error"] == 0
    for places in [4 * numbers] if word == "interpolate" else [numbers, numbers + 16, numbers + 48]:
        assert_close(logits(model, tokens, places), before, rtol=0, atol=1e-12)
    # At its present positions the text has other logits.
    if word == "interpolate":
        assert (logits(model, tokens) - before).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "word"), all_values([*NETWORKS], [*reversed(TABLES)]))
def test_plain_transformers_computes_the_same_logits_at_the_target(
    word: str, kind: str, opened: Callable[[str], LanguageModel], tmp_path: Path
) -> None:
    model = opened(kind)
    assert model.extend(extended(TABLES[word], 64), 16, 64)["table"]["row_error"] < 1e-6
    model.save(tmp_path / "model")
    auto = AutoModelForCausalLM if "causal" in model.has else AutoModelForMaskedLM
    plain = auto.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert_close(plain(TOKENS).logits, logits(model, TOKENS), rtol=0, atol=1e-5)
    again = Pretrained(source=str(tmp_path / "model"))
    assert again.original_length == again.build(60, 0).original_length == model.original_length == 64


@pytest.mark.parametrize("kind", ["roberta", "opt"])
def test_rows_that_are_not_positions_are_unchanged(kind: str, opened: Callable[[str], LanguageModel]) -> None:
    model = opened(kind)
    before = model.positions.learned._tables()[0][1].weight.detach().clone()
    model.extend(extended(Tile(), 64), 16, 64)
    after = model.positions.learned._tables()[0][1].weight.detach()
    assert torch.equal(after[:2], before[:2])
    assert torch.equal(after[2:18], before[2:])
    assert len(after) == 66


def test_a_trained_table_is_only_extended_once(opened: Callable[[str], LanguageModel]) -> None:
    model, strategy = opened("gpt2"), extended(Interpolate(), 64)
    proof = model.extend(strategy, 16, 64)
    table = model.network.transformer.wpe.weight
    with torch.no_grad():
        table.add_(torch.randn_like(table))
    trained = table.detach().clone()
    for length in (32, 64):  # an intermediate stage, and the last one
        assert model.extend(strategy, 16, length)["table"] == proof["table"]
        assert model.network.transformer.wpe.weight is table
        assert torch.equal(table, trained)


def test_a_shared_table_stays_shared_and_a_frozen_one_frozen(opened: Callable[[str], LanguageModel]) -> None:
    network = opened("gpt2").network
    network.module = nn.Module()
    network.module.wpe = network.transformer.wpe
    network.weight = nn.Module()
    network.weight.wpe = nn.Embedding(16, 32)
    network.weight.wpe.weight = network.transformer.wpe.weight.requires_grad_(False)
    LanguageModel(network, "gpt2").positions.learned.set(Tile(), 16, 64)
    assert network.module.wpe is network.transformer.wpe
    assert network.weight.wpe.weight is network.transformer.wpe.weight
    assert network.transformer.wpe.weight.shape == (64, 32)
    assert not network.transformer.wpe.weight.requires_grad


@pytest.mark.parametrize("word", TABLES)
def test_verification_notices_a_network_that_ignores_the_longer_table(word: str, opened: Callable[[str], LanguageModel]) -> None:
    model = opened("gpt2")
    table = model.network.transformer.wpe
    table.forward = lambda ids: F.embedding(ids.clamp(max=15), table.weight)  # positions past the trained end get its last row
    with pytest.raises(AssertionError, match=f"{word} is not active: rows differ by"):
        model.extend(extended(TABLES[word], 64), 16, 64)


@pytest.mark.slow
def test_the_planner_uses_the_length_of_the_longer_table(opened: Callable[[str], LanguageModel]) -> None:
    model = opened("gpt2")
    model.extend(extended(Interpolate(), 128), 16, 128)
    advice = advise(model, 128, batch_rows=1)
    assert advice.weights == sum(4 * p.numel() for p in model.network.parameters())
    assert max(advice.longest(cost.plan) for cost in advice.costs) == 128


def test_context_none_is_refused_past_the_table_and_changes_nothing_within(opened: Callable[[str], LanguageModel]) -> None:
    model = opened("gpt2")
    none = replace(extended(Interpolate(), 64), position=Unchanged())
    with pytest.raises(ConfigError, match=r"use context/position=interpolate, or context=none with context\.target_length=16"):
        check_strategy(model, none, 16)
    before = logits(model, TOKENS[:, :16])
    model.extend(replace(none, target_length=16), 16, 16)
    assert torch.equal(logits(model, TOKENS[:, :16]), before)
