"""Positions of architectures that keep them in another way than Llama: extended, exported and read by plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.covering import all_values
from tests.models.small import VOCAB, opened, strategy
from tests.networks import NO_SPECIAL
from torch import nn
from torch.testing import assert_close
from transformers import (
    AfmoeConfig,
    AfmoeForCausalLM,
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    JambaConfig,
    JambaForCausalLM,
    KimiLinearConfig,
    KimiLinearForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from elongate.context.position.rotary import Rotary
from elongate.context.position.yarn import Yarn
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.models.compatibility import check_network, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.training.export import export
from elongate.tuning.lora import Lora

LENGTH, TARGET = 64, 256
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    **NO_SPECIAL,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "topk_method": "greedy",
}
LOCAL = {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
TWO_SIZES = {"global_head_dim": 32, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
PER_LAYER = {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8}
MAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "mamba_d_state": 4, "use_mamba_kernels": False}
PHI = {"pad_token_id": 0, "original_max_position_embeddings": LENGTH}

NETWORKS: dict[str, Callable[..., PreTrainedModel]] = {
    "neighbours are pairs": lambda **f: CohereForCausalLM(CohereConfig(**SIZES | f)),
    "complex numbers": lambda **f: DeepseekV2ForCausalLM(DeepseekV2Config(**SIZES | LATENT | f)),
    "no size of heads": lambda **f: MixtralForCausalLM(MixtralConfig(**SIZES | EXPERTS | f)),
    "heads of two sizes": lambda **f: Gemma4ForCausalLM(Gemma4TextConfig(**SIZES | LOCAL | PER_LAYER | TWO_SIZES | f)),
    "some pairs do not rotate": lambda **f: Gemma4ForCausalLM(Gemma4TextConfig(**SIZES | LOCAL | PER_LAYER | {"global_head_dim": 16} | f)),
    "lists of factors": lambda **f: Phi3ForCausalLM(Phi3Config(**SIZES | PHI | f)),
    "factors and scales": lambda **f: PhimoeForCausalLM(
        PhimoeConfig(**SIZES | EXPERTS | {"router_jitter_noise": 0.0, "input_jitter_noise": 0.0} | f)
    ),
    "another base only": lambda **f: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(**SIZES | {"attention_window_size": 512, "block_types": ["recurrent", "attention"]} | f)
    ),
    "no positions": lambda **f: JambaForCausalLM(JambaConfig(**SIZES | MAMBA | f)),
    "no positions, many experts": lambda **f: KimiLinearForCausalLM(
        KimiLinearConfig(**SIZES | LATENT | {"layer_types": ["linear_attention", "full_attention"]} | f)
    ),
    "gemma3": lambda **f: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES | LOCAL | f)),
    "olmo3": lambda **f: Olmo3ForCausalLM(Olmo3Config(**SIZES | LOCAL | f)),
}


def saved(kind: str, folder: Path, **fields: Any) -> Pretrained:
    torch.manual_seed(0)
    network = NETWORKS[kind](**fields)
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    return Pretrained(source=str(folder))


def extended(source: Pretrained, word: str, **position: Any) -> tuple[LanguageModel, dict[str, Any]]:
    model, chosen = opened(source), strategy(word, target_length=TARGET)
    if position:
        chosen = strategy(word, target_length=TARGET, position=type(chosen.position)(**position))
    check_network(model)
    check_strategy(model, chosen, model.original_length)
    return model, model.extend(chosen, model.original_length, TARGET)


def assert_exported(model: LanguageModel, folder: Path) -> PreTrainedModel:
    export(model, ByteTokenizer(), folder)
    plain: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert plain.config.max_position_embeddings == TARGET
    tokens = torch.randint(VOCAB, (1, TARGET), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for length in (LENGTH, TARGET):
            ours, theirs = model.logits(model.hidden(tokens[:, :length])), plain(tokens[:, :length], use_cache=False).logits
            assert_close(ours / theirs.abs().max(), theirs / theirs.abs().max(), rtol=0, atol=1e-5)
    return plain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("neighbours are pairs", "yarn"),
        ("neighbours are pairs", "longrope"),
        ("complex numbers", "yarn"),
        ("no size of heads", "yarn"),
        ("no size of heads", "llama3"),
        ("heads of two sizes", "none"),
        ("heads of two sizes", "ntk"),
        ("heads of two sizes", "pi"),
        ("some pairs do not rotate", "yarn"),
        ("lists of factors", "pi"),
        ("lists of factors", "llama3"),
        ("factors and scales", "yarn"),
        ("another base only", "ntk"),
        ("no positions", "none"),
    ],
)
def test_plain_transformers_computes_the_logits_of_the_extended_model(kind: str, word: str, tmp_path: Path) -> None:
    model, _ = extended(saved(kind, tmp_path / "source"), word)
    assert_exported(model, tmp_path / "extended")


@pytest.mark.parametrize(
    ("kind", "word", "line"),
    [
        ("heads of two sizes", "yarn", "a gemma4_text whose rotary embedding does not take such frequencies; use context=none or ntk"),
        ("another base only", "yarn", "a recurrent_gemma whose rotary embedding does not take such frequencies; use context=none or ntk"),
        ("lists of factors", "dynamic_ntk", "a phi3 whose configuration only takes frequencies that do not depend on the length"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_training(kind: str, word: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"context/position={word}: cannot act on {line}"):
        extended(saved(kind, tmp_path), word)


def test_pairs_that_do_not_rotate_still_do_not(tmp_path: Path) -> None:
    model, evidence = extended(saved("some pairs do not rotate", tmp_path), "yarn")
    # A quarter of 8 pairs rotates.
    assert [frequency > 0 for frequency in evidence["frequencies"]] == [True] * 2 + [False] * 6
    assert "from" not in evidence  # it was not scaled before
    assert model.network.config.rope_parameters["full_attention"]["rope_type"] == "longrope"


def test_a_model_without_positions_reads_any_length(tmp_path: Path) -> None:
    for kind in ("no positions", "no positions, many experts"):
        assert opened(saved(kind, tmp_path / kind)).positions.has == {"computed_positions"}


@pytest.mark.slow
def test_a_model_without_positions_offers_the_strategy_that_works(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"yarn: needs rotary positions, which model=pretrained does not have; use context=none"):
        extended(saved("no positions", tmp_path), "yarn")


def test_a_network_that_needs_a_mask_is_refused_in_one_line() -> None:
    built = MptForCausalLM(MptConfig(vocab_size=VOCAB, d_model=32, n_layers=1, n_heads=2, max_seq_len=64)).eval()
    built.config._attn_implementation = "elongate"
    with pytest.raises(ConfigError, match="is a mpt: it cannot run without a mask of its attention"):
        check_network(LanguageModel(built, "mpt"))


@pytest.mark.slow
def test_lora_acts_on_a_gate_of_attention_that_is_named_like_that_of_an_expert() -> None:
    fields = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "num_dense_layers": 1}
    model = LanguageModel(AfmoeForCausalLM(AfmoeConfig(**SIZES | LOCAL | fields)), "afmoe")
    before = model.network.model.layers[1].self_attn.gate_proj.weight.clone()
    lora = Lora(rank=2)
    lora.apply(model, 0)
    assert "self_attn.gate_proj" in lora.adapters(model)["targets"]
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    lora.merge(model)
    assert not torch.equal(model.network.model.layers[1].self_attn.gate_proj.weight, before)
    assert not any("lora" in name for name, _ in model.network.named_parameters())


# -- windowed layers with frequencies of their own -------------------------------------------------

THETAS = {
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "word"), all_values(["gemma3", "olmo3"], ["ntk", "yarn", "longrope"]))
def test_a_scaling_acts_on_windowed_layers_only_if_asked(kind: str, word: str, tmp_path: Path) -> None:
    source = saved(kind, tmp_path / "source", **THETAS)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for layers in ("full", "all"):
        model, _ = extended(source, word, layers=layers)
        plain = assert_exported(model, tmp_path / layers)
        found[layers] = {name: getattr(plain.model.rotary_emb, f"{name}_inv_freq").double() for name in THETAS["rope_parameters"]}
    pairs = -np.arange(0, 16, 2) / 16
    assert_close(found["full"]["sliding_attention"], torch.from_numpy(1000.0**pairs), rtol=1e-6, atol=0)
    assert_close(found["all"]["full_attention"], found["full"]["full_attention"])
    assert not torch.allclose(found["full"]["full_attention"], torch.from_numpy(10_000.0**pairs)) or word == "longrope"
    if word == "ntk":  # theta · 4^(d/(d-2))
        assert_close(found["all"]["sliding_attention"], torch.from_numpy((1000.0 * 4 ** (16 / 14)) ** pairs), rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["full", "all"])
def test_yarn_without_rounding_is_exported_where_transformers_does_not_read_truncate(layers: str, tmp_path: Path) -> None:
    model, _ = extended(saved("gemma3", tmp_path / "source", **THETAS), "yarn", truncate=False, layers=layers)
    plain = assert_exported(model, tmp_path / "model")
    for name, theta in [("full_attention", 10_000.0), ("sliding_attention", 1000.0)][: 2 if layers == "all" else 1]:
        expected = Yarn(truncate=False).frequencies(Rotary(16, theta, LENGTH), TARGET / LENGTH)
        assert_close(getattr(plain.model.rotary_emb, f"{name}_inv_freq").double(), torch.from_numpy(expected), rtol=1e-6, atol=0)


@pytest.mark.slow
def test_windowed_layers_that_cannot_be_scaled_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"with context.position.layers=all, because its layers have heads of different sizes"):
        extended(saved("heads of two sizes", tmp_path / "sizes"), "ntk", layers="all")
    linear = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}
    scaled = {"rope_parameters": THETAS["rope_parameters"] | {"sliding_attention": linear}}
    with pytest.raises(ConfigError, match=r"with context.position.layers=all, because its windowed layers are scaled already"):
        extended(saved("gemma3", tmp_path / "scaled", **scaled), "ntk", layers="all")


def test_the_layers_of_a_position_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"layers=some: must be full or all; use layers=full"):
        strategy("yarn", position=type(strategy("yarn").position)(layers="some"))
    with pytest.raises(ConfigError, match="layers=all: has no effect: none changes no layer"):
        type(strategy("none").position)(layers="all")
