"""The sizes of all networks of the zoo, by the names that configurations give them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

LENGTH, WINDOW = 64, 16  # tokens: trained length, and the models' own windows and chunks


def _same(value: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, value)


WIDTH, INNER, _LAYERS, HEADS, _EXPERTS = 64, 96, 2, 4, 4
SIZES: dict[str, Any] = {
    **_same(320, "vocab_size", "vocab_size_per_layer_input"),
    **_same(WIDTH, "hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"),
    **_same(INNER, "intermediate_size", "hidden_dim", "ffn_dim", "ffn_hidden_size", "n_inner", "intermediate_size_mlp"),
    **_same(INNER, "dense_intermediate_size"),
    **_same(_LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    **_same(HEADS, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "swa_num_attention_heads"),
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
TOWER: dict[str, Any] = {  # of images
    **_same(32, "hidden_size", "embed_dim", "intermediate_size", "projection_dim", "vision_output_dim", "projector_input_dim"),
    **_same(WIDTH, "out_hidden_size", "projector_output_dim"),
    **_same(1, "num_hidden_layers", "depth", "num_global_layers"),
    **_same(2, "num_attention_heads", "num_heads", "num_key_value_heads", "mlp_ratio"),
    **_same(16, "head_dim", "num_position_embeddings", "position_embedding_size"),
    **_same([0], "deepstack_visual_indexes", "fullatt_block_indexes", "intermediate_layers_indices"),
    "image_size": 28,
    "patch_size": 14,
}


def sized(cls: type[PreTrainedConfig], sizes: dict[str, Any]) -> dict[str, Any]:
    """Return those sizes that a configuration has; and no dropout, and no noise."""
    names = {entry.name for entry in fields(cls)}  # type: ignore[arg-type]
    noise = [name for name in names if ("drop" in name or "jitter" in name) and isinstance(getattr(cls, name, None), float)]
    return {name: size for name, size in sizes.items() if name in names} | dict.fromkeys(noise, 0.0)
