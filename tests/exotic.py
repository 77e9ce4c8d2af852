"""Small networks beyond those of tests/networks.py: mixtures of experts, hybrids, and attentions of their own kind."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from elongate.context.attention.kernel import interface  # noqa: F401  # registers our attention
from tests.networks import SIZES

GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
LOCAL = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
MAMBA = {"mamba_n_heads": 8, "mamba_d_state": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}

EXOTIC: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4}),
    "qwen3_moe": ("Qwen3Moe", {**GROUPED, **EXPERTS}),
    "gpt_oss": ("GptOss", {**GROUPED, **LOCAL, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mimo": (
        "MiMoV2Flash",
        {**GROUPED, **LOCAL, "v_head_dim": 6, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "gemma2": ("Gemma2", {**GROUPED, **LOCAL, "attn_logit_softcapping": 2.0, "final_logit_softcapping": None}),
    "llama4": (
        "Llama4Text",
        {
            **GROUPED,
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "attention_chunk_size": 8,
            "no_rope_layers": [1, 0],
            "floor_scale": 3,
            "attn_scale": 0.5,
        },
    ),
    "stablelm": ("StableLm", {"num_key_value_heads": 2}),
    "nemotron": ("Nemotron", {**GROUPED}),
    "lfm2": ("Lfm2", {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}),
    "qwen3_next": (
        "Qwen3Next",
        {**GROUPED, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "bamba": ("Bamba", {"num_key_value_heads": 2, **MAMBA, "attn_layer_indices": [1]}),
}


def exotic(kind: str, implementation: str = "elongate", dtype: torch.dtype = torch.float32, **fields: Any) -> PreTrainedModel:
    """The same weights at every call."""
    name, own = EXOTIC[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES | own | fields)
    built = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)
    built.set_attn_implementation(implementation)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return built.to(dtype)
