"""A bidirectional autoencoder built fresh: an encoder that reads a text block by block, and a decoder that sees all that was read.

The text is extended by more blocks, which cost as much each as the first: an encoder never sees more than one. What is extended is the
decoder's reach, by its rotary positions. Fails where a block alone does not tell what matters about it: no block knows what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.context.position.rotary import Rotary
from elongate.errors import ConfigError, require
from elongate.models.model import Model

if TYPE_CHECKING:
    from transformers import BertModel

    from elongate.models.language_model import LanguageModel

# Of every such network, fresh or opened. Its attention has a pattern of its own, so it takes no other ("regions").
HAS = frozenset({"bidirectional", "autoencoder", "rotary", "computed_positions"})


@dataclass(frozen=True, kw_only=True)
class BidirectionalAutoencoder(Model):
    original_length: int = 256  # tokens that the base is trained on, a multiple of block_length
    block_length: int = 64  # tokens that the encoder reads at once, at least 1
    latents_per_block: int = 64  # vectors that a block becomes, at most block_length; equal: nothing is compressed
    num_encoder_layers: int = 2
    num_decoder_layers: int = 4
    dim: int = 128  # of the residual streams, a multiple of num_heads
    num_heads: int = 8
    num_kv_heads: int = 2  # a divisor of num_heads
    mlp_dim: int = 352
    rope_theta: float = 10_000.0  # above 1
    tie_weights: bool = True  # the head is the embedding
    encoder: str | None = None  # hub id or folder of a pretrained BERT that becomes the encoder; null: random weights

    word: ClassVar[str] = "bidirectional_autoencoder"
    fresh: ClassVar[bool] = True
    has: ClassVar[frozenset[str]] = HAS

    def __post_init__(self) -> None:
        sizes = ("original_length", "block_length", "latents_per_block", "num_encoder_layers", "num_decoder_layers", "dim", "num_heads")
        for name in (*sizes, "num_kv_heads", "mlp_dim"):
            value, default = getattr(self, name), BidirectionalAutoencoder.__dataclass_fields__[name].default
            require(value > 0, name, value, "must be at least 1", f"use {{key}}={default}")
        require(self.rope_theta > 1, "rope_theta", self.rope_theta, "must be above 1", "use {key}=10000")
        rule = f"must be an even multiple of num_heads={self.num_heads}: rotary positions turn pairs"
        pairs = 2 * self.num_heads
        require(self.dim % pairs == 0, "dim", self.dim, rule, f"use {{key}}={pairs * max(1, self.dim // pairs)}")
        rule = f"must divide num_heads={self.num_heads}"
        require(self.num_heads % self.num_kv_heads == 0, "num_kv_heads", self.num_kv_heads, rule, f"use {{key}}={self.num_heads}")
        rule = f"is more than the block_length of {self.block_length} tokens that it stands for"
        fits = self.latents_per_block <= self.block_length
        require(fits, "latents_per_block", self.latents_per_block, rule, f"use {{key}}={self.block_length} or less")
        whole = max(1, round(self.original_length / self.block_length)) * self.block_length
        rule = f"must be a whole number of blocks of {self.block_length} tokens"
        require(self.original_length % self.block_length == 0, "original_length", self.original_length, rule, f"use {{key}}={whole}")
        if self.encoder is not None:
            from elongate.models.pretrained import Pretrained  # which knows this module

            try:
                Pretrained(source=self.encoder)
            except ConfigError as fault:
                raise ConfigError("encoder", self.encoder, fault.rule, fault.remedy) from None

    @property
    def rotary(self) -> Rotary | None:
        # The size of a pretrained encoder is known once it is opened.
        return None if self.encoder is not None else Rotary(self.dim // self.num_heads, self.rope_theta, self.original_length)

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        import torch

        from elongate.models.autoencoder.autoencoder import Autoencoder
        from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig
        from elongate.models.autoencoder.network import BidirectionalAutoencoderForMaskedLM

        bert = None if self.encoder is None else self._bert(vocab_size)
        config = BidirectionalAutoencoderConfig(
            vocab_size=vocab_size if bert is None else bert.config.vocab_size,
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
            bert_config=None if bert is None else bert.config.to_diff_dict(),
        )
        torch.manual_seed(seed)
        network = BidirectionalAutoencoderForMaskedLM(config)
        if bert is not None:
            network.model.encoder.bert = bert
            network.tie_weights()
        return Autoencoder(network, word=self.word)

    def _bert(self, vocab_size: int) -> BertModel:
        """The encoder that is named. Raises `ConfigError` where it does not fit the sizes that were chosen."""
        from elongate.models.autoencoder.bert import opened

        assert self.encoder is not None
        bert = opened(self.encoder)
        self._require_as_in(bert.config, "dim", "hidden_size")
        self._require_as_in(bert.config, "num_encoder_layers", "num_hidden_layers")
        slots = self.latents_per_block if self.latents_per_block < self.block_length else 0
        rule = f"is more than the encoder has positions for: {bert.config.max_position_embeddings}, of which the latents take {slots}"
        longest = bert.config.max_position_embeddings - slots
        require(self.block_length <= longest, "model.block_length", self.block_length, rule, f"use {{key}}={longest} or less")
        rule = f"has {vocab_size} tokens, the encoder's embedding {bert.config.vocab_size}"
        remedy = f"use tokenizer=pretrained tokenizer.source={self.encoder}"
        require(vocab_size <= bert.config.vocab_size, "tokenizer", "", rule, remedy)
        return bert

    def _require_as_in(self, config: Any, name: str, theirs: str) -> None:
        own, given = getattr(self, name), getattr(config, theirs)
        require(own == given, f"model.{name}", own, f"must be {given}, that of the encoder {self.encoder}", f"use {{key}}={given}")
