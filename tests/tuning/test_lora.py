"""LoRA on networks of several architectures, compared with the formulas of its paper."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Zamba2Config,
    Zamba2ForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from elongate.errors import ConfigError
from elongate.models.language_model import LanguageModel
from elongate.tuning.lora import Lora
from elongate.tuning.lora_plus import LoraPlus

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": None, "eos_token_id": None}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, eos_token_id=None)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES, **NO_DROPOUT)),
}
TARGETS = {
    "llama": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
    "gpt2": {"attn.c_attn", "attn.c_proj"},
    "gpt_neox": {"attention.query_key_value", "attention.dense"},
    "bert": {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"},
}
ALL = pytest.mark.parametrize("kind", NETWORKS)
TOKENS = torch.arange(24).reshape(2, 12) * 7 % 50


def built(kind: str) -> LanguageModel:
    torch.manual_seed(3)
    return LanguageModel(NETWORKS[kind]().double(), word=kind)


def loss(network: PreTrainedModel) -> torch.Tensor:
    return nn.functional.cross_entropy(network(TOKENS).logits.flatten(0, 1), TOKENS.roll(-1, 1).flatten())


def trained(model: LanguageModel, steps: int = 3) -> LanguageModel:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(steps):
        loss(model.network).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def plain_name(name: str) -> str:
    return name.replace(".base_layer", "")


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("tuning", [Lora(), LoraPlus()], ids=lambda tuning: tuning.word)
def test_applying_changes_nothing_and_merging_keeps_what_was_trained(kind: str, tuning: Lora, tmp_path: Path) -> None:
    model = built(kind)
    untouched, modules = model.network(TOKENS).logits, [type(m) for m in model.network.modules()]
    tuning.apply(model, seed=0)
    assert_close(model.network(TOKENS).logits, untouched, rtol=0, atol=0)
    learned = trained(model).network(TOKENS).logits
    assert (learned - untouched).abs().max() > 0.1
    tuning.merge(model)
    assert [type(m) for m in model.network.modules()] == modules
    assert_close(model.network(TOKENS).logits, learned, rtol=0, atol=1e-12)
    assert tuning.adapters(model) | {"targets": [], "layers": 0} == tuning.adapters(model)
    if kind != "bert":
        model.network.save_pretrained(tmp_path)
        opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
        assert_close(opened(TOKENS).logits, learned.float(), rtol=0, atol=1e-5)


@ALL
def test_only_adapters_and_lora_plus_tables_are_trained(kind: str) -> None:
    for tuning in (Lora(), LoraPlus()):
        model = built(kind)
        before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
        # The weights that lora_plus trains in full, by their names in these architectures.
        whole = {n for n in before if any(word in n.lower() for word in ("embed", "wte", "wpe", "norm", "ln_"))}
        whole = whole if tuning.word == "lora_plus" else set()
        tuning.apply(model, seed=0)
        after = {plain_name(name): p for name, p in trained(model).network.named_parameters()}
        changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
        assert changed == whole
        assert all(".lora_A." in name or ".lora_B." in name for name in set(after) - set(before))
        assert {id(p) for p in model.parameters()} == {id(p) for n, p in after.items() if n in whole or n not in before}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("rank", [1, 8])
def test_each_projection_of_attention_gets_rank_times_rows_plus_columns(kind: str, rank: int) -> None:
    model = built(kind)
    vectors = {"llama": (2 * 2 + 1) * 32, "gpt2": (2 * 2 + 1) * 2 * 32, "gpt_neox": (2 * 2 + 1) * 2 * 32, "bert": (2 * 2 + 2) * 2 * 32}
    tables = {"llama": 50, "gpt2": 50 + 64, "gpt_neox": 50, "bert": 50 + 512 + 2}
    # Llama has 2 key/value heads of 8; in other networks query, key and value may be one matrix.
    sides = {"llama": [64, 48, 48, 64], "gpt2": [32 + 96, 64], "gpt_neox": [32 + 96, 64], "bert": [64] * 4}
    for tuning, whole in ((Lora(rank=rank), 0), (LoraPlus(rank=rank), tables[kind] * 32 + vectors[kind])):
        tuning.apply(model, seed=0)
        assert sum(p.numel() for p in model.parameters()) == 2 * rank * sum(sides[kind]) + whole
        facts = tuning.adapters(model)
        assert (facts["rank"], set(facts["targets"]), facts["layers"]) == (rank, TARGETS[kind], 2 * len(TARGETS[kind]))
        tuning.merge(model)


@ALL
def test_gradients_are_those_of_the_product(kind: str) -> None:
    """With W' = W + s B A and dW' its gradient: dA = s Bᵀ dW', dB = s dW' Aᵀ."""
    tuning = Lora(rank=3, alpha=7)
    model = built(kind)
    tuning.apply(model, seed=0)
    trained(model)
    merged = LanguageModel(copy.deepcopy(model.network), word=kind)
    tuning.merge(merged)
    loss(model.network).backward()
    loss(merged.network).backward()
    for name, layer in model.network.named_modules():
        if hasattr(layer, "lora_A"):
            (a,), (b,) = (side["default"].parameters() for side in (layer.lora_A, layer.lora_B))
            dense = merged.network.get_submodule(name)
            gradient = dense.weight.grad.T if isinstance(dense, Conv1D) else dense.weight.grad
            assert_close(a.grad, 7 / 3 * b.T @ gradient, rtol=1e-10, atol=1e-14)
            assert_close(b.grad, 7 / 3 * gradient @ a.T, rtol=1e-10, atol=1e-14)
            assert b.grad.abs().max() > 1e-6


def test_initial_adapters_depend_on_the_seed_only() -> None:
    def added(seed: int, state: int) -> dict[str, torch.Tensor]:
        model = built("llama")
        torch.manual_seed(state)
        Lora().apply(model, seed)
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(state).get_state())
        return {name: p for name, p in model.network.named_parameters() if "lora_A" in name}

    first, again, other = added(0, 1), added(0, 2), added(1, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    q, k = (first[f"model.layers.0.self_attn.{name}_proj.lora_A.default.weight"] for name in "qk")
    assert not torch.equal(q, k)


def test_dropout_acts_in_training_only() -> None:
    model = built("llama")
    Lora(dropout=0.5).apply(model, seed=0)
    trained(model)
    network = model.network
    assert not torch.equal(network(TOKENS).logits, network(TOKENS).logits)
    network.eval()
    assert torch.equal(network(TOKENS).logits, network(TOKENS).logits)


@pytest.mark.parametrize(
    ("kind", "targets", "names"),
    [
        ("llama", ["q_proj", "v_proj"], {"self_attn.q_proj", "self_attn.v_proj"}),
        ("llama", ["1.mlp.down_proj"], {"mlp.down_proj"}),
        ("gpt2", ["c_proj"], {"attn.c_proj", "mlp.c_proj"}),
        ("gpt2", ["attn.c_proj"], {"attn.c_proj"}),
    ],
)
def test_targets_are_ends_of_names(kind: str, targets: list[str], names: set[str]) -> None:
    model = built(kind)
    tuning = Lora(targets=targets)
    tuning.apply(model, seed=0)
    assert set(tuning.adapters(model)["targets"]) == names
    assert tuning.adapters(model)["layers"] == (1 if targets[0][0] == "1" else 2 * len(names))


@pytest.mark.parametrize(
    ("kind", "target", "remedy"),
    [
        ("llama", "qproj", "did you mean q_proj?"),
        ("llama", "attn.q_proj", "did you mean self_attn.q_proj?"),
        ("llama", "proj", "did you mean"),
        ("llama", "lm_head", "choose from down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("llama", "embed_tokens", "choose from down_proj"),
        ("gpt2", "query_key_value", "choose from c_attn, c_fc, c_proj"),
    ],
)
def test_an_unknown_target_is_refused_with_a_suggestion(kind: str, target: str, remedy: str) -> None:
    model = built(kind)
    with pytest.raises(ConfigError, match="is not the end of the name of a linear layer below the head") as refused:
        Lora(targets=["q_proj" if kind == "llama" else "c_attn", target]).apply(model, seed=0)
    line = str(refused.value.inside("tuning"))
    assert line.startswith(f"tuning.targets={target}: ")
    assert remedy in line
    assert len(model.parameters()) == len(list(model.network.parameters()))


def test_a_network_without_attention_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
            self.config = LlamaConfig()

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    with pytest.raises(ConfigError, match="there is no linear layer in the attention of a llama; choose from mixer"):
        Lora().target_layers(Odd())


# -- shared weights ----------------------------------------------------------------------------


def zamba(blocks: list[str]) -> LanguageModel:
    """Its hybrid layers share one block of attention."""
    attention = {"num_key_value_heads": 4, "attention_head_dim": 16, "attention_hidden_size": 64, "use_mem_rope": True}
    mamba = {"mamba_d_state": 4, "mamba_ngroups": 1, "n_mamba_heads": 4, "mamba_headdim": 16, "chunk_size": 16}
    fields = SIZES | attention | mamba | {"num_hidden_layers": len(blocks)}
    network = Zamba2ForCausalLM(Zamba2Config(**fields, layers_block_type=blocks, num_mem_blocks=1))
    return LanguageModel(network, "zamba2")


def shared_projection() -> LanguageModel:
    model = built("llama")
    first, second = (layer.self_attn for layer in model.network.model.layers)
    second.q_proj = first.q_proj
    return model


def tied_projection() -> LanguageModel:
    model = built("llama")
    first, second = (layer.self_attn for layer in model.network.model.layers)
    second.q_proj.weight = first.q_proj.weight
    return model


@pytest.mark.parametrize(
    ("build", "weight"),
    [
        (lambda: zamba(["mamba", "hybrid", "mamba", "hybrid"]), r"\S+proj"),
        (shared_projection, "model.layers.0.self_attn.q_proj"),
        (tied_projection, "model.layers.0.self_attn.q_proj"),
    ],
    ids=["block", "module", "weight"],
)
def test_a_weight_with_two_users_is_refused(build: Callable[[], LanguageModel], weight: str) -> None:
    """Merging would add the adapters of both users to the one weight."""
    model = build()
    with pytest.raises(ConfigError, match=f"selects {weight}, whose weight 2 modules of a .* share: merging would change all") as refused:
        Lora().apply(model, seed=0)
    assert str(refused.value.inside("tuning")).startswith("tuning.targets: ")
    assert not any("lora" in name for name, _ in model.network.named_parameters())


def test_a_layer_that_is_used_twice_is_merged_exactly() -> None:
    model = built("llama")
    layers = model.network.model.layers
    layers[1] = layers[0]
    Lora().apply(model, seed=0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted = loss(model.network)
    Lora().merge(model)
    assert_close(loss(model.network), adapted)


def test_a_shared_block_with_one_user_is_accepted() -> None:
    Lora().apply(zamba(["mamba", "hybrid", "mamba"]), seed=0)
