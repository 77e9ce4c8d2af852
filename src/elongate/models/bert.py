"""A masked model with learned positions and random weights: transformers' BERT without next-sentence prediction.

Devlin et al. 2018, arXiv:1810.04805. A small BERT that is trained for minutes stays at the loss of single bytes unless
it departs from the paper in four ways:
- its table of positions starts as sinusoids, so that a token can find its neighbours from the first step;
- its heads have 64 dimensions, as in the smallest published BERTs (Turc et al. 2019, arXiv:1908.08962);
- its initial weights are larger the narrower it is;
- it has no dropout, since no text is read twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.models.checks import require_dropouts, require_export_dtype, require_heads, require_positive
from elongate.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Bert(Model):
    """A masked model with learned positions and random weights."""

    original_length: int = 128  # tokens that the base is trained on and rows of the table of positions, at least 1
    num_layers: int = 4  # at least 1
    dim: int = 128  # of the residual stream, a multiple of num_heads
    num_heads: int = 2  # of attention, a divisor of dim
    mlp_dim: int = 512  # width of the MLP, at least 1
    dropout: float = 0.0  # of embeddings and of the output of each sublayer, in [0, 1); BERT-Base: 0.1
    attention_dropout: float = 0.0  # in [0, 1); above 0 memory is quadratic in the length
    export_dtype: str = "auto"  # of the exported weights: auto (float32), float32, bfloat16 or float16

    word: ClassVar[str] = "bert"
    fresh: ClassVar[bool] = True
    has: ClassVar[frozenset[str]] = frozenset({"bidirectional", "masked", "learned_positions", "regions"})

    def __post_init__(self) -> None:
        require_export_dtype(self)
        require_positive(self, "original_length", "num_layers", "dim", "num_heads", "mlp_dim")
        require_heads(self.dim, self.num_heads)
        require_dropouts(self, "dropout", "attention_dropout")

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        import torch
        from transformers.models.bert.modeling_bert import BertConfig, BertForMaskedLM

        from elongate.context.attention.kernel.interface import IMPLEMENTATION
        from elongate.models.language_model import LanguageModel

        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=self.dim,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            intermediate_size=self.mlp_dim,
            max_position_embeddings=self.original_length,
            initializer_range=0.02 * (768 / self.dim) ** 0.5,  # BERT-Base, 768 wide: 0.02
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.attention_dropout,
            pad_token_id=None,  # by default 0, whose embedding would stay zero; here 0 is a byte like any other
        )
        config._attn_implementation = IMPLEMENTATION
        torch.manual_seed(seed)
        network = BertForMaskedLM(config)
        with torch.no_grad():
            table = network.bert.embeddings.position_embeddings.weight
            # Scale the table to the root mean square of the word embeddings.
            table.copy_(2**0.5 * config.initializer_range * sinusoids(*table.shape))
        return LanguageModel(network, word=self.word)


def sinusoids(length: int, dim: int) -> Float[Tensor, "length dim"]:
    """Return sines, then cosines, of each position at falling frequencies.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    import torch

    frequencies = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim].float()
