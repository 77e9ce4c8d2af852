"""Small transformers networks whose attention depends on the tokens.

That of fresh weights hardly does, which would hide faults of the attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    HrmTextConfig,
    HrmTextForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from elongate.context.attention.kernel import interface  # noqa: F401  # registers our attention

VOCAB = 50
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **NO_SPECIAL,
}
GPT2 = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **NO_SPECIAL}
GPT2_DROPOUT = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
BERT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
EIGHT = {"num_attention_heads": 8}
LOCAL = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "head_dim": 8, "num_key_value_heads": 2}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
    "first_k_dense_replace": 2,  # no experts
}

NETWORKS: dict[str, Callable[..., PreTrainedModel]] = {
    "llama-1": lambda **f: LlamaForCausalLM(LlamaConfig(**SIZES | EIGHT | {"num_key_value_heads": 1} | f)),
    "llama-2": lambda **f: LlamaForCausalLM(LlamaConfig(**SIZES | EIGHT | {"num_key_value_heads": 2} | f)),
    "llama-8": lambda **f: LlamaForCausalLM(LlamaConfig(**SIZES | EIGHT | {"num_key_value_heads": 8} | f)),
    "qwen3": lambda **f: Qwen3ForCausalLM(Qwen3Config(**SIZES | {"num_key_value_heads": 2, "head_dim": 6} | f)),
    "gpt2": lambda **f: GPT2LMHeadModel(GPT2Config(**GPT2 | GPT2_DROPOUT | f)),
    "gpt_neox": lambda **f: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES | {"rotary_pct": 0.5} | f)),
    "mistral": lambda **f: MistralForCausalLM(MistralConfig(**SIZES | {"num_key_value_heads": 2, "sliding_window": 8} | f)),
    "gemma2": lambda **f: Gemma2ForCausalLM(Gemma2Config(**SIZES | LOCAL | f)),
    "gemma3": lambda **f: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES | LOCAL | f)),
    "deepseek": lambda **f: DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES | LATENT | f)),
    "diffllama": lambda **f: DiffLlamaForCausalLM(DiffLlamaConfig(**SIZES | {"num_key_value_heads": 2} | f)),
    "hrm": lambda **f: HrmTextForCausalLM(HrmTextConfig(**SIZES | f)),
    "bert": lambda **f: BertForMaskedLM(BertConfig(**SIZES | BERT_DROPOUT | f)),
    "modernbert": lambda **f: ModernBertForMaskedLM(
        ModernBertConfig(**SIZES | {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": None, "sep_token_id": None} | f)
    ),
}


def network(kind: str, implementation: str = "sdpa", dtype: torch.dtype = torch.float64, **fields: Any) -> PreTrainedModel:
    """The same weights at every call."""
    torch.manual_seed(0)
    built = NETWORKS[kind](**fields)
    built.set_attn_implementation(implementation)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return built.to(dtype)
