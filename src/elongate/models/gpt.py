"""A rotary decoder with random weights: transformers' Llama with grouped key/value heads.

Touvron et al. 2023, arXiv:2307.09288.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.context.position.rotary import Rotary
from elongate.models.checks import require_export_dtype, require_grouped_heads, require_heads, require_positive, require_theta
from elongate.models.model import Model

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Gpt(Model):
    """A rotary decoder with random weights."""

    original_length: int = 256  # tokens that the base is trained on, at least 1
    num_layers: int = 4  # at least 1
    dim: int = 128  # of the residual stream, a multiple of num_heads
    num_heads: int = 8  # of attention, a divisor of dim
    num_kv_heads: int = 2  # a divisor of num_heads
    mlp_dim: int = 352  # width of the MLP, at least 1
    rope_theta: float = 10_000.0  # above 1
    tie_weights: bool = True  # the head is the embedding
    export_dtype: str = "auto"  # of the exported weights: auto (float32), float32, bfloat16 or float16

    word: ClassVar[str] = "gpt"
    fresh: ClassVar[bool] = True
    has: ClassVar[frozenset[str]] = frozenset({"causal", "rotary", "computed_positions", "regions"})

    def __post_init__(self) -> None:
        require_export_dtype(self)
        require_positive(self, "original_length", "num_layers", "dim", "num_heads", "num_kv_heads", "mlp_dim")
        require_theta(self.rope_theta)
        require_heads(self.dim, self.num_heads, pairs=True)
        require_grouped_heads(self.num_heads, self.num_kv_heads)

    @property
    def rotary(self) -> Rotary:
        return Rotary(self.dim // self.num_heads, self.rope_theta, self.original_length)

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        import torch
        from transformers.models.llama.modeling_llama import LlamaConfig, LlamaForCausalLM

        from elongate.context.attention.kernel.interface import IMPLEMENTATION
        from elongate.models.language_model import LanguageModel

        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.dim,
            intermediate_size=self.mlp_dim,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            max_position_embeddings=self.original_length,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=self.tie_weights,
            bos_token_id=None,
            eos_token_id=None,
        )
        config._attn_implementation = IMPLEMENTATION
        torch.manual_seed(seed)
        return LanguageModel(LlamaForCausalLM(config), word=self.word)
