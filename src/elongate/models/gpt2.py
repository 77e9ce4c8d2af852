"""A decoder with learned positions and random weights: transformers' GPT-2.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.models.checks import require_dropouts, require_export_dtype, require_heads, require_positive
from elongate.models.model import Model

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Gpt2(Model):
    """A decoder with learned positions and random weights."""

    original_length: int = 256  # tokens that the base is trained on and rows of the table of positions, at least 1
    num_layers: int = 4  # at least 1
    dim: int = 128  # of the residual stream, a multiple of num_heads
    num_heads: int = 8  # of attention, a divisor of dim
    mlp_dim: int = 512  # width of the MLP, at least 1
    dropout: float = 0.1  # of embeddings and of the output of each sublayer, in [0, 1)
    attention_dropout: float = 0.0  # in [0, 1); above 0 memory is quadratic in the length
    export_dtype: str = "auto"  # of the exported weights: auto (float32), float32, bfloat16 or float16

    word: ClassVar[str] = "gpt2"
    fresh: ClassVar[bool] = True
    has: ClassVar[frozenset[str]] = frozenset({"causal", "learned_positions", "regions"})

    def __post_init__(self) -> None:
        require_export_dtype(self)
        require_positive(self, "original_length", "num_layers", "dim", "num_heads", "mlp_dim")
        require_heads(self.dim, self.num_heads)
        require_dropouts(self, "dropout", "attention_dropout")

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        import torch
        from transformers.models.gpt2.modeling_gpt2 import GPT2Config, GPT2LMHeadModel

        from elongate.context.attention.kernel.interface import IMPLEMENTATION
        from elongate.models.language_model import LanguageModel

        config = GPT2Config(
            vocab_size=vocab_size,
            n_positions=self.original_length,
            n_embd=self.dim,
            n_layer=self.num_layers,
            n_head=self.num_heads,
            n_inner=self.mlp_dim,
            embd_pdrop=self.dropout,
            resid_pdrop=self.dropout,
            attn_pdrop=self.attention_dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        config._attn_implementation = IMPLEMENTATION
        torch.manual_seed(seed)
        return LanguageModel(GPT2LMHeadModel(config), word=self.word)
