"""The configuration of the bidirectional autoencoder: config.json of an exported folder."""

from typing import Any, no_type_check

from transformers import PreTrainedConfig


@no_type_check  # transformers accepts further keys of a config.json, which the signature does not show
class BidirectionalAutoencoderConfig(PreTrainedConfig):
    """Sizes of encoder and decoder."""

    model_type = "bidirectional_autoencoder"

    vocab_size: int = 257
    hidden_size: int = 128
    intermediate_size: int = 352
    num_encoder_layers: int = 2
    num_decoder_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    block_length: int = 64  # tokens
    latents_per_block: int = 64  # equal to block_length: the states of the tokens themselves
    max_position_embeddings: int = 256  # tokens of a text, including those that are decoded
    rope_parameters: dict[str, Any] | None = None  # of the decoder; an extension changes them
    encoder_rope_theta: float = 10_000.0  # of the encoder; distances within a block never grow
    bert_config: dict[str, Any] | None = None  # of a BERT as encoder; None: layers like the decoder's
    hidden_act: str = "silu"
    mlp_bias: bool = False
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
