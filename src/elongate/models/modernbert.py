"""A rotary masked model with random weights: transformers' ModernBERT, whose local layers see a sliding window.

Warner et al. 2024, arXiv:2412.13663. All layers have one theta, as in the paper before its own
extension. A scaling acts on the global layers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.context.position.rotary import Rotary
from elongate.errors import require
from elongate.models.checks import require_dropouts, require_export_dtype, require_heads, require_positive, require_theta
from elongate.models.model import Model

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class ModernBert(Model):
    """A rotary masked model with random weights."""

    original_length: int = 128  # tokens that the base is trained on, at least 1
    num_layers: int = 4  # at least 1
    dim: int = 128  # of the residual stream, an even multiple of num_heads
    num_heads: int = 8  # of attention, a divisor of dim
    mlp_dim: int = 352  # width of the MLP, at least 1
    global_every: int = 2  # every n-th layer, from the first, sees the whole sequence; the others are local
    local_length: int = 64  # tokens that a local layer sees besides the query's own, half on either side; even
    rope_theta: float = 10_000.0  # above 1
    dropout: float = 0.0  # of embeddings and within the MLP, in [0, 1)
    export_dtype: str = "auto"  # of the exported weights: auto (float32), float32, bfloat16 or float16

    word: ClassVar[str] = "modernbert"
    fresh: ClassVar[bool] = True
    has: ClassVar[frozenset[str]] = frozenset({"bidirectional", "masked", "rotary", "computed_positions", "regions"})

    def __post_init__(self) -> None:
        require_export_dtype(self)
        counts = ("original_length", "num_layers", "dim", "num_heads", "mlp_dim", "global_every", "local_length")
        require_positive(self, *counts)
        require_heads(self.dim, self.num_heads, pairs=True)
        rule = "must be even: half of the tokens are on either side"
        local = self.local_length
        require(local % 2 == 0, "local_length", local, rule, f"use {{key}}={local + 1}")
        require_theta(self.rope_theta)
        require_dropouts(self, "dropout")

    @property
    def rotary(self) -> Rotary:
        return Rotary(self.dim // self.num_heads, self.rope_theta, self.original_length)

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        import torch
        from transformers.models.modernbert.modeling_modernbert import ModernBertConfig, ModernBertForMaskedLM

        from elongate.context.attention.kernel.interface import IMPLEMENTATION
        from elongate.models.language_model import LanguageModel

        layers = ("full_attention", "sliding_attention")
        config = ModernBertConfig(
            vocab_size=vocab_size,
            hidden_size=self.dim,
            intermediate_size=self.mlp_dim,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            max_position_embeddings=self.original_length,
            layer_types=[layers[number % self.global_every > 0] for number in range(self.num_layers)],
            local_attention=self.local_length,
            rope_parameters={layer: {"rope_type": "default", "rope_theta": self.rope_theta} for layer in layers},
            embedding_dropout=self.dropout,
            mlp_dropout=self.dropout,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            cls_token_id=None,
            sep_token_id=None,
        )
        config._attn_implementation = IMPLEMENTATION
        torch.manual_seed(seed)
        return LanguageModel(ModernBertForMaskedLM(config), word=self.word)
