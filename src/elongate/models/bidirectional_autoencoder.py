"""A bidirectional autoencoder with random weights: an encoder reads a text block by block, a decoder sees all blocks.

A longer text has more blocks at the same cost per block, because the encoder sees one block at a
time. What an extension changes is the reach of the decoder, through its rotary positions. Fails
where a block cannot be compressed without knowing what will be asked about it: the encoder sees no
question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.context.position.rotary import Rotary
from elongate.errors import require
from elongate.models.checks import require_export_dtype, require_grouped_heads, require_heads, require_positive, require_theta
from elongate.models.model import Model
from elongate.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel

    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class BidirectionalAutoencoder(Model):
    """A bidirectional autoencoder with random weights, or with a pretrained BERT as its encoder."""

    original_length: int = 256  # tokens that the base is trained on, a multiple of block_length
    block_length: int = 64  # tokens that the encoder reads together, at least 1
    latents_per_block: int = 64  # vectors per block, at most block_length; equal: nothing is compressed
    num_encoder_layers: int = 2  # at least 1
    num_decoder_layers: int = 4  # at least 1
    dim: int = 128  # of the residual streams, an even multiple of num_heads
    num_heads: int = 8  # of attention, a divisor of dim
    num_kv_heads: int = 2  # a divisor of num_heads
    mlp_dim: int = 352  # width of the MLP, at least 1
    rope_theta: float = 10_000.0  # above 1
    tie_weights: bool = True  # the head is the embedding
    encoder: str | None = None  # hub id or folder of a pretrained BERT; null: random weights
    export_dtype: str = "auto"  # of the exported weights: auto (float32), float32, bfloat16 or float16

    word: ClassVar[str] = "bidirectional_autoencoder"
    fresh: ClassVar[bool] = True
    # Without "regions": its attention has a pattern of its own, so it takes no other.
    has: ClassVar[frozenset[str]] = frozenset({"bidirectional", "autoencoder", "rotary", "computed_positions"})

    def __post_init__(self) -> None:
        require_export_dtype(self)
        sizes = ("original_length", "block_length", "latents_per_block", "num_encoder_layers", "num_decoder_layers")
        require_positive(self, *sizes, "dim", "num_heads", "num_kv_heads", "mlp_dim")
        require_theta(self.rope_theta)
        require_heads(self.dim, self.num_heads, pairs=True)
        require_grouped_heads(self.num_heads, self.num_kv_heads)
        block, latents = self.block_length, self.latents_per_block
        rule = f"is more than the block_length of {block} tokens that it replaces"
        require(latents <= block, "latents_per_block", latents, rule, f"use {{key}}={block} or less")
        rule = f"must be a multiple of the block length {block}"
        nearest = max(1, round(self.original_length / block)) * block
        whole = self.original_length % block == 0
        require(whole, "original_length", self.original_length, rule, f"use {{key}}={nearest}")
        if self.encoder is not None:
            ModelSource(self.encoder).require_model("encoder")

    @property
    def rotary(self) -> Rotary | None:
        # Whether the sizes fit a pretrained encoder is unknown until it is opened.
        if self.encoder is not None:
            return None
        return Rotary(self.dim // self.num_heads, self.rope_theta, self.original_length)

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        import torch

        from elongate.models.autoencoder.autoencoder import Autoencoder
        from elongate.models.autoencoder.network import BidirectionalAutoencoderForMaskedLM

        bert = None if self.encoder is None else self._open_encoder(self.encoder, vocab_size)
        config = self._network_config(vocab_size, None if bert is None else bert.config)
        torch.manual_seed(seed)
        network = BidirectionalAutoencoderForMaskedLM(config)
        if bert is not None:
            network.model.encoder.bert = bert
            network.tie_weights()
        return Autoencoder(network, word=self.word)

    def _network_config(self, vocab_size: int, bert: BertConfig | None) -> Any:
        from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig

        return BidirectionalAutoencoderConfig(
            vocab_size=vocab_size if bert is None else bert.vocab_size,
            hidden_size=self.dim,
            intermediate_size=self.mlp_dim,
            num_encoder_layers=self.num_encoder_layers,
            num_decoder_layers=self.num_decoder_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            block_length=self.block_length,
            latents_per_block=self.latents_per_block,
            max_position_embeddings=self.original_length,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            encoder_rope_theta=self.rope_theta,
            tie_word_embeddings=self.tie_weights,
            bert_config=None if bert is None else bert.to_diff_dict(),
        )

    def _open_encoder(self, source: str, vocab_size: int) -> BertModel:
        """Return the pretrained encoder. Raises `ConfigError` if it does not fit the sizes of the model."""
        from elongate.models.autoencoder.bert import open_bert

        bert = open_bert(ModelSource(source), "model.encoder")
        config = bert.config
        for name, theirs in (("dim", "hidden_size"), ("num_encoder_layers", "num_hidden_layers")):
            own, given = getattr(self, name), getattr(config, theirs)
            rule = f"must be {given}, as in the encoder {source}"
            require(own == given, f"model.{name}", own, rule, f"use {{key}}={given}")
        slots = self.latents_per_block if self.latents_per_block < self.block_length else 0
        longest = config.max_position_embeddings - slots
        rule = f"exceeds the encoder's {config.max_position_embeddings} positions, and the latents need {slots} of them"
        block = self.block_length
        require(block <= longest, "model.block_length", block, rule, f"use {{key}}={longest} or less")
        rule = f"has {vocab_size} tokens, the encoder's embedding {config.vocab_size}"
        remedy = f"use tokenizer=pretrained tokenizer.source={source}"
        require(vocab_size <= config.vocab_size, "tokenizer", "", rule, remedy)
        return bert
