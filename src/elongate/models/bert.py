"""A masked model with learned positions built fresh: transformers' BERT (Devlin et al. 2018, arXiv:1810.04805), without its second task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.models.fields import require_dropouts, require_heads, require_positive
from elongate.models.model import Model

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Bert(Model):
    original_length: int = 128  # tokens that the base is trained on and rows of the table of positions, at least 1
    num_layers: int = 4
    dim: int = 128  # of the residual stream, a multiple of num_heads
    num_heads: int = 8
    mlp_dim: int = 512
    dropout: float = 0.1  # of embeddings and of what each layer adds, in [0, 1)
    attention_dropout: float = 0.0  # in [0, 1); above 0 memory grows with the square of the length

    word: ClassVar[str] = "bert"
    fresh: ClassVar[bool] = True
    has: ClassVar[frozenset[str]] = frozenset({"bidirectional", "masked", "learned_positions", "regions"})

    def __post_init__(self) -> None:
        require_positive(self, "original_length", "num_layers", "dim", "num_heads", "mlp_dim")
        require_heads(self.dim, self.num_heads)
        require_dropouts(self, "dropout", "attention_dropout")

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        import torch
        from transformers.models.bert.modeling_bert import BertConfig, BertForMaskedLM

        from elongate.context.attention.interface import IMPLEMENTATION
        from elongate.models.language_model import LanguageModel

        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=self.dim,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            intermediate_size=self.mlp_dim,
            max_position_embeddings=self.original_length,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.attention_dropout,
            pad_token_id=None,  # its embedding would stay zero, and token 0 is a byte like any other
        )
        config._attn_implementation = IMPLEMENTATION
        torch.manual_seed(seed)
        return LanguageModel(BertForMaskedLM(config), word=self.word)
