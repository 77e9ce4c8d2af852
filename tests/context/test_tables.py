"""Learned tables, made longer: what the table holds, what the network looks up in it, and whole runs on models that have one."""

from __future__ import annotations

import re
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
from omegaconf import OmegaConf
from tests.conftest import evaluated
from tests.interrupts import SignalAfter
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

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.attention.full import Full
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.interpolate import Interpolate
from elongate.context.position.none import Unchanged
from elongate.context.position.scaling import Scaling
from elongate.context.position.table import Table
from elongate.context.position.tile import Tile
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError, Stopped
from elongate.memory.planner.planner import advise
from elongate.models.bert import Bert
from elongate.models.compatibility import check_head, check_strategy
from elongate.models.gpt import Gpt
from elongate.models.gpt2 import Gpt2
from elongate.models.language_model import LanguageModel
from elongate.models.modernbert import ModernBert
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

TABLES = {"interpolate": Interpolate(), "tile": Tile()}


def extended(table: Table, length: int) -> Strategy:
    return Strategy(position=table, attention=Full(), curriculum=Fixed(), target_length=length)


# -- the table -------------------------------------------------------------------------------------------------------------

rows_of_a_table = st.builds(
    lambda seed, original, dtype: torch.randn(original, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed)),
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
)


@given(rows_of_a_table, st.integers(1, 9))
def test_every_kth_entry_of_an_interpolated_table_is_an_old_one_to_the_last_bit(rows: torch.Tensor, factor: int) -> None:
    longer = Interpolate().extended(rows, factor * len(rows))
    assert torch.equal(longer[::factor], rows)
    # Beyond the last old row it is held.
    assert torch.equal(longer[-factor:], rows[-1:].expand(factor, -1))


@given(rows_of_a_table)
@pytest.mark.parametrize("word", TABLES)
def test_a_table_at_factor_one_is_the_table(word: str, rows: torch.Tensor) -> None:
    assert torch.equal(TABLES[word].extended(rows, len(rows)), rows)


@given(rows_of_a_table, st.integers(0, 100))
def test_an_interpolated_table_of_any_length_is_numpys(rows: torch.Tensor, more: int) -> None:
    original, length = len(rows), len(rows) + more
    rows = rows.double()
    places = np.arange(length) * (original / length)
    expected = np.stack([np.interp(places, np.arange(original), column) for column in rows.numpy().T], axis=1)
    np.testing.assert_allclose(Interpolate().extended(rows, length).numpy(), expected, rtol=0, atol=1e-12)


@given(rows_of_a_table, st.integers(1, 9))
def test_a_tiled_table_is_the_old_one_again_and_again(rows: torch.Tensor, factor: int) -> None:
    assert_array_equal(Tile().extended(rows, factor * len(rows)).numpy(), np.tile(rows.numpy(), (factor, 1)))


@pytest.mark.parametrize(("target", "nearest"), [(33, 64), (79, 64), (81, 96), (1000, 992)])
def test_tile_names_the_nearest_multiple(target: int, nearest: int, build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_tiny("model=gpt2", "context=tile", f"context.target_length={target}")
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
BEHIND_PADDING = SIZES | {"max_position_embeddings": 18}  # two rows are no positions
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
TOKENS = torch.randint(3, 60, (2, 64), generator=torch.Generator().manual_seed(0))  # none of padding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of each kind, its positions made large: those of fresh networks hardly show."""

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
        return F.linear(model.head_inputs(model.hidden(tokens, positions)), *model.head)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_length_of_a_checkpoint_counts_no_rows_for_padding(
    kind: str, folder: Callable[[str], Path], opened: Callable[[str], LanguageModel]
) -> None:
    model = opened(kind)
    assert Pretrained(source=str(folder(kind))).original_length == model.original_length == model.positions.learned.length == 16
    assert "learned_positions" in model.has
    check_head(model)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("word", TABLES)
def test_a_text_at_old_entries_reads_as_before(word: str, kind: str, opened: Callable[[str], LanguageModel]) -> None:
    """Old entry j stands at 4·j in a table that is interpolated four-fold, and at j + 16, j + 32 … in one that is tiled."""
    model, tokens = opened(kind), TOKENS[:, :16]
    model.network.double()
    before, numbers = logits(model, tokens), torch.arange(16)[None].expand(2, -1)
    assert_close(logits(model, tokens, numbers), before, rtol=0, atol=1e-12)
    proof = model.extend(extended(TABLES[word], 64), 16, 64)["table"]
    assert (proof["original_length"], proof["length"]) == (16, 64)
    assert proof["row_error"] == 0
    for places in [4 * numbers] if word == "interpolate" else [numbers, numbers + 16, numbers + 48]:
        assert_close(logits(model, tokens, places), before, rtol=0, atol=1e-12)
    # And where it stands now makes a difference.
    if word == "interpolate":
        assert (logits(model, tokens) - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("word", TABLES)
def test_plain_transformers_computes_our_logits_at_the_target(
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
def test_rows_that_are_no_positions_are_kept(kind: str, opened: Callable[[str], LanguageModel]) -> None:
    model = opened(kind)
    before = model.positions.learned._tables()[0][1].weight.detach().clone()
    model.extend(extended(Tile(), 64), 16, 64)
    after = model.positions.learned._tables()[0][1].weight.detach()
    assert torch.equal(after[:2], before[:2])
    assert torch.equal(after[2:18], before[2:])
    assert len(after) == 66


def test_a_trained_table_is_not_made_longer_again(opened: Callable[[str], LanguageModel]) -> None:
    model, strategy = opened("gpt2"), extended(Interpolate(), 64)
    proof = model.extend(strategy, 16, 64)
    table = model.network.transformer.wpe.weight
    with torch.no_grad():
        table.add_(torch.randn_like(table))
    trained = table.detach().clone()
    for length in (32, 64):  # a stage on the way, and the last
        assert model.extend(strategy, 16, length)["table"] == proof["table"]
        assert model.network.transformer.wpe.weight is table
        assert torch.equal(table, trained)


def test_a_table_that_is_shared_stays_shared_and_a_frozen_one_frozen(opened: Callable[[str], LanguageModel]) -> None:
    network = opened("gpt2").network
    network.module = nn.Module()
    network.module.wpe = network.transformer.wpe
    network.weight = nn.Module()
    network.weight.wpe = nn.Embedding(16, 32)
    network.weight.wpe.weight = network.transformer.wpe.weight.requires_grad_(False)
    LanguageModel(network, "gpt2").positions.set_table(Tile(), 16, 64)
    assert network.module.wpe is network.transformer.wpe
    assert network.weight.wpe.weight is network.transformer.wpe.weight
    assert network.transformer.wpe.weight.shape == (64, 32)
    assert not network.transformer.wpe.weight.requires_grad


@pytest.mark.parametrize("word", TABLES)
def test_a_network_that_does_not_look_up_the_longer_table_is_found_out(word: str, opened: Callable[[str], LanguageModel]) -> None:
    model = opened("gpt2")
    table = model.network.transformer.wpe
    table.forward = lambda ids: F.embedding(ids.clamp(max=15), table.weight)  # what lies past the trained end is its last row
    with pytest.raises(AssertionError, match=f"{word} is not active: rows differ by"):
        model.extend(extended(TABLES[word], 64), 16, 64)


def test_the_planner_knows_the_end_of_the_longer_table(opened: Callable[[str], LanguageModel]) -> None:
    model = opened("gpt2")
    model.extend(extended(Interpolate(), 128), 16, 128)
    advice = advise(model, 128, batch_rows=1)
    assert advice.weights == sum(4 * p.numel() for p in model.network.parameters())
    assert max(advice.longest(estimate.plan) for estimate in advice.estimates) == 128


# -- refusals --------------------------------------------------------------------------------------------------------------


def choices(group: str) -> list[Any]:
    return [build(OmegaConf.load(path), "context") for path in sorted((conf_directory() / "context" / group).glob("*.yaml"))]


@pytest.mark.parametrize("position", choices("position"), ids=lambda position: position.word)
@pytest.mark.parametrize("model", [Gpt, Gpt2, Bert, ModernBert], ids=lambda model: model.word)
def test_a_strategy_acts_on_a_model_or_is_refused_with_a_remedy_that_works(model: Any, position: Any) -> None:
    for attention in choices("attention"):
        strategy = replace(extended(position, 128), attention=attention)
        for _ in range(3):  # a remedy for each question
            if (fault := refusal(strategy, model)) is None:
                break
            remedy = re.match(r"use context/(position|attention)=(\w+)", fault.remedy)
            assert remedy is not None, fault
            assert "\n" not in str(fault)
            strategy = replace(
                strategy, **{remedy[1]: build(OmegaConf.load(conf_directory() / f"context/{remedy[1]}/{remedy[2]}.yaml"), "")}
            )
        assert refusal(strategy, model) is None
        assert not (isinstance(strategy.position, Scaling) and "learned_positions" in model.has)


def refusal(strategy: Strategy, model: Any) -> ConfigError | None:
    try:
        strategy.check(model.has, 32, model.word)
    except ConfigError as fault:
        return fault
    return None


# -- runs ------------------------------------------------------------------------------------------------------------------

SHORT = ("context.curriculum.base.steps=2", "steps=4")


@pytest.mark.parametrize("sampling", [None, "pose", "randomized"])
@pytest.mark.parametrize("word", TABLES)
@pytest.mark.parametrize("model", ["gpt2", "bert"])
def test_a_model_with_a_table_trains_measures_and_exports(
    model: str, word: str, sampling: str | None, ran: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    sampled = () if sampling is None else (f"context/sampling={sampling}",)
    directory, results = ran("run", f"model={model}", f"context={word}", *sampled, *SHORT)
    assert f"position {word}: active. A table of 128 positions made of 32; matches the closed form to" in capfd.readouterr().out
    assert results["strategy"]["proof"]["table"]["row_error"] < 1e-6
    (stage,) = results["stages"]
    assert stage["length"] == (128 if sampling is None else 32)
    assert 32 < stage["reach"] <= 128
    # The base has no row past its end, and no loss there; what it is read with may reach one token further.
    reached = {row: [loss is not None for loss in results["curve"]["table"][row]["loss"]] for row in ("before", "untuned", "after")}
    assert reached["untuned"][:4] == reached["after"][:4] == [True] * 4
    assert reached["before"][:2] == [True] * 2
    assert not reached["before"][3]
    ours, tokens = Pretrained(source=str(directory.model)).build(257, 0), torch.randint(257, (2, 128))
    plain = (AutoModelForCausalLM if model == "gpt2" else AutoModelForMaskedLM).from_pretrained(directory.model)
    assert plain.config.max_position_embeddings == 128
    with torch.no_grad():
        assert_close(plain(tokens).logits, logits(ours, tokens), rtol=0, atol=1e-5)
    again = evaluated(directory.path, directory.path.parent / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]


def weights(directory: RunDirectory) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory.model / "model.safetensors")


@pytest.mark.parametrize("more", [("context/curriculum=progressive",), ("tuning=lora_plus",)], ids=" ".join)
def test_a_run_that_was_stopped_goes_on_with_its_longer_table(
    more: tuple[str, ...], ran: Callable[..., Any], build_tiny: Callable[..., Any], text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=gpt2", "context=interpolate", "evaluation=[]", "training.checkpoint_steps=1", *SHORT, *more]
    whole, results = ran("whole", *words)
    assert results["budget"]["base"] is not None
    with monkeypatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(2))
        with pytest.raises(Stopped):
            ran("parted", *words)
    parted = RunDirectory(whole.path.parent / "parted")
    assert 0 < len(parted.read_metrics()) < len(whole.read_metrics())
    again = run(build_tiny("data=text", f"data.path={text_folder}", *words), parted)
    assert again["strategy"] == results["strategy"]
    assert again["data"] == results["data"]
    for name, weight in weights(whole).items():
        assert torch.equal(weights(parted)[name], weight), name


@pytest.mark.parametrize(("tuning", "trained"), [("full", True), ("lora_plus", True), ("lora", False)])
def test_the_longer_table_is_trained_where_embeddings_are(tuning: str, trained: bool, ran: Callable[..., Any]) -> None:
    directory, results = ran("run", "model=gpt2", "context=interpolate", f"tuning={tuning}", "evaluation=[]", *SHORT)
    base = weights(RunDirectory(Path(results["budget"]["base"]["path"])))["transformer.wpe.weight"]
    untrained = torch.nn.functional.interpolate(base.T[None], size=125, mode="linear", align_corners=True)[0].T  # without the held end
    table = weights(directory)["transformer.wpe.weight"]
    assert torch.allclose(table[:125], untrained, rtol=0, atol=1e-7) is not trained


def test_a_checkpoint_is_extended_with_its_own_table(folder: Callable[[str], Path], ran: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = BEHIND_PADDING | {"vocab_size": 300, "max_position_embeddings": 34}
    RobertaForMaskedLM(RobertaConfig(**sizes)).save_pretrained(tmp_path / "roberta")
    source = ("model=pretrained", f"model.source={tmp_path}/roberta", "tokenizer=byte", "objective=masked")
    directory, results = ran("run", *source, "context=interpolate", "evaluation=[]")
    assert (results["strategy"]["original_length"], results["strategy"]["proof"]["table"]["length"]) == (32, 128)
    assert AutoModelForMaskedLM.from_pretrained(directory.model).config.max_position_embeddings == 130
    with pytest.raises(ConfigError, match=r"context/position=none: needs positions that are computed .*; use context/position=interpolate"):
        ran("none", *source, "context=none", "evaluation=[]")


def test_the_control_is_refused_past_the_table_and_left_alone_within(opened: Callable[[str], LanguageModel]) -> None:
    model = opened("gpt2")
    none = replace(extended(Interpolate(), 64), position=Unchanged())
    with pytest.raises(ConfigError, match=r"use context/position=interpolate, or context=none with context\.target_length=16"):
        check_strategy(model, none, 16)
    before = logits(model, TOKENS[:, :16])
    model.extend(replace(none, target_length=16), 16, 16)
    assert torch.equal(logits(model, TOKENS[:, :16]), before)
