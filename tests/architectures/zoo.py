"""Tiny random checkpoints of the architectures that transformers knows, by the name of their row in docs/architectures.md.

The sizes are the same for all: `SIZES` has them by the names that configurations give them, and each configuration gets
those that it has. A row only says what else it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from elongate.data.tokenizer.byte import ByteTokenizer

LENGTH, WINDOW = 64, 16  # tokens: trained length, and the models' own windows and chunks


def _same(value: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, value)


_WIDTH, _INNER, _LAYERS, _HEADS, _EXPERTS = 64, 96, 2, 4, 4
SIZES: dict[str, Any] = {
    **_same(320, "vocab_size", "vocab_size_per_layer_input"),
    **_same(_WIDTH, "hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"),
    **_same(_INNER, "intermediate_size", "hidden_dim", "ffn_dim", "ffn_hidden_size", "n_inner", "intermediate_size_mlp"),
    **_same(_INNER, "dense_intermediate_size"),
    **_same(_LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    **_same(_HEADS, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "swa_num_attention_heads"),
    **_same(2, "num_key_value_heads", "swa_num_key_value_heads", "linear_num_value_heads", "linear_num_key_heads", "index_n_heads"),
    **_same(16, "head_dim", "swa_head_dim", "index_head_dim", "mamba_d_head", "q_lora_rank", "kv_lora_rank"),
    **_same(8, "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "linear_key_head_dim", "linear_value_head_dim"),
    **_same(8, "mamba_n_heads", "mamba_d_state", "state_size", "hidden_size_per_layer_input", "index_topk"),
    **_same(LENGTH, "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
    **_same(WINDOW, "sliding_window", "local_attention", "attention_window_size", "window_size", "sliding_window_size"),
    **_same(WINDOW, "attention_chunk_size", "chunk_size", "mamba_chunk_size"),
    **_same(_EXPERTS, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    **_same(2, "num_experts_per_tok", "moe_k", "moe_topk"),
    **_same(32, "moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size", "shared_intermediate_size"),
    **_same(1, "n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"),
    **_same(1, "mamba_n_groups", "n_groups"),
    **_same(None, "bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"),
}
LOCAL = {"layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
LATENT = {"num_key_value_heads": _HEADS}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
PADDED = {"pad_token_id": 1, "max_position_embeddings": LENGTH + 2}  # tables that begin with two rows for padding

CAUSAL: dict[str, dict[str, Any]] = {
    "afmoe": LOCAL,
    "apertus": {},
    "arcee": {},
    "aria_text": {},
    "axk1": LATENT,
    "axk2": LATENT,
    "bailing_hybrid": LATENT | LINEAR,
    "bamba": {"attn_layer_indices": [1]},
    "bert-generation": {},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 8},
    "cohere": {},
    "cohere2": LOCAL,
    "cohere2_moe": LOCAL,
    "ctrl": {"dff": _INNER},
    "cwm": LOCAL | {"bos_token_id": 1, "eos_token_id": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"hidden_size": _WIDTH, "ffn_hidden_size": _INNER, "moe_top_k": 2},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "deepseek_v2": LATENT | {"topk_method": "greedy"},
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT,
    "deepseek_v4": {},
    "diffllama": {},
    "doge": {},
    "dots1": {},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": LOCAL,
    "exaone_moe": LOCAL,
    "falcon": {"alibi": False},
    "falcon_h1": {"mamba_d_ssm": 128},
    "falcon_mamba": {},
    "flex_olmo": {},
    "flint": {},
    "gemma": {},
    "gemma2": LOCAL,
    "gemma3_text": LOCAL,
    "gemma3n_text": LOCAL | {"num_kv_shared_layers": 0, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": LOCAL | {"global_head_dim": 32},
    "gemma4_unified_text": LOCAL | {"global_head_dim": 32},
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT,
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_oss": LOCAL,
    "gptj": {"rotary_dim": 8},
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.1, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    "granite_swa": LOCAL,
    "granitemoe": {"logits_scaling": 6.0, "attention_multiplier": 0.1, "embedding_multiplier": 12.0},
    "granitemoe_swa": LOCAL,
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "granitemoeshared": {},
    "helium": {},
    "hrm_text": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "hy_v3": {},
    "hy_v4": {},
    "hyperclovax": {},
    "inkling_text": {},
    "inkling2_text": {},
    "jais2": {},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": False},
    "jetmoe": {"kv_channels": 16},
    "kimi_linear": LATENT | LINEAR | {"linear_head_dim": 16, "linear_num_heads": _HEADS},
    "kolibri1": {},
    "laguna": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {},
    "llama": {},
    "llama4_text": {"no_rope_layers": [1, 0]},
    "longcat_flash": LATENT | {"zero_expert_num": 2, "head_dim": 8},
    "mamba": {},
    "mamba2": {"num_heads": 8},
    "mellum": {},
    "mimo_v2_flash": {},
    "minicpm3": LATENT,
    "minimax": LINEAR,
    "minimax_m2": {},
    "minimax_m3_vl_text": {"rotary_dim": 8},
    "ministral": LOCAL,
    "ministral3": {},
    "mistral": {},
    "mixtral": {"head_dim": None},
    "modernbert-decoder": {"global_attn_every_n_layers": 2, **SPECIAL},
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {"ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 16, "moe_shared_expert_intermediate_size": 32},
    "olmo": {},
    "olmo2": {},
    "olmo3": LOCAL,
    "olmo_hybrid": LINEAR,
    "olmoe": {},
    "openai-gpt": {},
    "opt": {},
    "persimmon": {},
    "phi": {},
    "phi3": {"original_max_position_embeddings": LENGTH},
    "phimoe": {"original_max_position_embeddings": LENGTH},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_5_moe_text": LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_moe": {},
    "qwen3_next": LINEAR,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "roformer": {"is_decoder": True},
    "seed_oss": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "solar_open": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": LOCAL,
    "xglm": {},
    "xlnet": {"d_inner": _INNER},
    "youtu": LATENT,
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1},
    "zaya": {"num_experts_per_tok": 1},
}
MASKED: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 32},
    "bert": {},
    "big_bird": {},
    "camembert": PADDED,
    "convbert": {},
    "data2vec-text": PADDED,
    "deberta": {"pad_token_id": 0},
    "deberta-v2": {"pad_token_id": 0},
    "distilbert": {},
    "electra": {"embedding_size": 32},
    "ernie": {},
    "esm": PADDED | {"position_embedding_type": "rotary", "token_dropout": False, "mask_token_id": 256},
    "eurobert": {},
    "fnet": {},
    "gte": {},
    "ibert": PADDED,
    "jina_embeddings_v3": {},
    "longformer": PADDED | {"attention_window": 16},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32},
    "modernbert": {"global_attn_every_n_layers": 2},
    "mpnet": PADDED,
    "mra": PADDED,
    "nomic_bert": {"pad_token_id": 0},
    "nystromformer": {},
    "rembert": {},
    "roberta": PADDED,
    "roberta-prelayernorm": PADDED,
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False},
    "roformer": {},
    "squeezebert": {},
    "xlm-roberta": PADDED,
    "xlm-roberta-xl": PADDED,
    "xmod": PADDED | {"languages": ["en_XX"], "default_language": "en_XX"},
}


@dataclass(frozen=True)
class Architecture:
    """A tiny network of an architecture."""

    name: str  # its row on the page
    auto: Any  # the Auto class that opens it
    model_type: str
    fields: dict[str, Any] = field(default_factory=dict, hash=False)  # of its configuration, besides the common sizes

    def __str__(self) -> str:
        return self.name

    @cached_property
    def config(self) -> PreTrainedConfig:
        cls = CONFIG_MAPPING[self.model_type]
        return cls(**sized(cls) | self.fields)

    def network(self) -> PreTrainedModel:
        """Return a network with random weights that are large enough for every part to matter."""
        torch.manual_seed(0)
        network = self.auto.from_config(self.config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
                elif not name.endswith(("A_log", "dt_bias")):  # exponents
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return network

    def save(self, folder: Path) -> None:
        """Write the checkpoint with a tokenizer."""
        self.network().save_pretrained(folder)
        ByteTokenizer().save(folder)


def sized(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """Return the common sizes that a configuration has, and no dropout and no noise."""
    names = {entry.name for entry in fields(cls)}  # type: ignore[arg-type]
    noise = [name for name in names if ("drop" in name or "jitter" in name) and isinstance(getattr(cls, name, None), float)]
    return {name: size for name, size in SIZES.items() if name in names} | dict.fromkeys(noise, 0.0)


ZOO = {
    architecture.name: architecture
    for architecture in [
        *(Architecture(kind, AutoModelForCausalLM, kind, more) for kind, more in CAUSAL.items()),
        *(Architecture(f"{kind} (masked)", AutoModelForMaskedLM, kind, more) for kind, more in MASKED.items()),
    ]
}
FAMILIES: dict[str, str] = {}
