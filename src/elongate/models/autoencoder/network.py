"""The network of the bidirectional autoencoder.

Importing this module registers it with the Auto classes of transformers.

A text is encoded block by block; the decoder sees the latents of all blocks. It either
*reconstructs* the encoded text, all places together and from both sides, or *continues* it token by
token. A latent has the position of the tokens that it replaces, a decoded token its own position.
So the length of the text affects the decoder's rotary embedding only, and an extension changes
that.

It is registered as a masked language model: from token ids alone it predicts, from both sides, the
token at each place.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from elongate.context.attention.kernel.kv_store import Kept
from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig
from elongate.models.autoencoder.encoder import BertEncoder, Encoder, latent_positions
from elongate.models.autoencoder.layer import DecoderLayer
from elongate.models.autoencoder.segments import Segments

TOKENS_PER_CALL = 1024  # tokens of blocks that one call of the encoder reads, and recomputes, together

Encoded = tuple[Float[Tensor, "batch latents dim"], Int[Tensor, "#batch latents"]]  # latents and their positions


class BidirectionalAutoencoderPreTrainedModel(PreTrainedModel):
    """The base class that transformers requires."""

    config_class = BidirectionalAutoencoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["Layer", "DecoderLayer"]  # noqa: RUF012  # as transformers has it

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.encoder.embed_tokens

    def _set_gradient_checkpointing(self, *given: Any, **named: Any) -> None:
        super()._set_gradient_checkpointing(*given, **named)
        # An encoder is recomputed as a whole, so its layers, including BERT's, must not be recomputed again.
        for part in self.base_model.encoder.children():
            for module in part.modules():
                module.gradient_checkpointing = False


class BidirectionalAutoencoderModel(BidirectionalAutoencoderPreTrainedModel):
    """Encoder and decoder without the head."""

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config) if config.bert_config is None else BertEncoder(config)
        # The decoder's input at every place to be reconstructed: places differ by their position only.
        self.blank = nn.Embedding(1, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        context_ids: Int[Tensor, "batch context"] | None = None,
        position_ids: Int[Tensor, "#batch text"] | None = None,
        attention_mask: Tensor | None = None,
        kept: Kept | None = None,
        **others: Any,
    ) -> BaseModelOutput:
        """Return last hidden states.

        Without a context, the inputs are encoded and reconstructed: there is a state for each of
        them, and `position_ids` are theirs. With one, the context is encoded and continued: the
        inputs begin with the last token of the context, the state of each predicts the token after
        it, and `position_ids` are those of the context and of all inputs but the first.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("a padded batch cannot be read: give rows of one length")
        if context_ids is None:
            encoded = self.encode(input_ids, position_ids)
            hidden, segments = self.blank.weight.expand(*input_ids.shape, -1), self._own_blocks(input_ids, encoded)
            first = 0
        else:
            first = context_ids.shape[1] - 1
            encoded = self.encode(context_ids, None if position_ids is None else position_ids[:, : first + 1])
            hidden, segments = self.encoder.embed_tokens(input_ids), ((input_ids.shape[1], encoded[0].shape[1]),)
        if position_ids is None:
            positions = torch.arange(first, first + input_ids.shape[1], device=input_ids.device)[None]
        else:
            positions = position_ids[:, first:]
        states = self.decode(hidden, positions, encoded, segments, context_ids is not None, kept)
        return BaseModelOutput(last_hidden_state=states)

    def encode(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "#batch length"] | None = None,
    ) -> Encoded:
        """Encode whole blocks from the first token on, and the rest as a shorter block.

        `positions` are those of the tokens; None: 0, 1, 2, ...
        """
        size, whole = self.config.block_length, ids.shape[1] // self.config.block_length
        found = []
        if whole:
            blocks = ids[:, : whole * size].reshape(-1, size)
            # Several calls save memory only if they are recomputed in the backward pass, or if there is none.
            separate = self.encoder.gradient_checkpointing or not torch.is_grad_enabled()
            groups = blocks.split(max(1, TOKENS_PER_CALL // size) if separate else len(blocks))
            latents = torch.cat([self.encoder(group) for group in groups])
            found.append(latents.reshape(len(ids), -1, self.config.hidden_size))
        if ids.shape[1] > whole * size:
            found.append(self.encoder(ids[:, whole * size :]))
        at = self._latent_positions(ids)
        return torch.cat(found, dim=1), at[None] if positions is None else positions[:, at]

    def decode(
        self,
        hidden: Float[Tensor, "batch length dim"],
        positions: Int[Tensor, "#batch length"],
        encoded: Encoded,
        segments: tuple[tuple[int, int], ...],
        causal: bool,
        kept: Kept | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the last hidden states of tokens in segments (segments.py). `kept` stores outputs of attention."""
        latents, at = encoded
        rows = max(len(at), len(positions))
        every = torch.cat([at.expand(rows, -1), positions.expand(rows, -1)], dim=1)
        rotation = self.rotary_emb(hidden, every)
        layout = Segments(num_latents=latents.shape[1], segments=segments, causal=causal).layout(kept)
        for layer in self.layers:
            hidden = layer(hidden, rotation, latents, layout)
        return self.norm(hidden)

    def _own_blocks(self, ids: Int[Tensor, "batch length"], encoded: Encoded) -> tuple[tuple[int, int], ...]:
        """Return segments of one block that see all latents: places of different blocks never meet."""
        size, length, seen = self.config.block_length, ids.shape[1], encoded[0].shape[1]
        return tuple((min(size, length - start), seen) for start in range(0, length, size))

    def _latent_positions(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, " latents"]:
        """Return the number of the token whose position each latent has."""
        size, length = self.config.block_length, ids.shape[1]
        parts = []
        for start in range(0, length, size):
            tokens = min(size, length - start)
            parts.append(start + latent_positions(tokens, self.encoder.num_latents(tokens), ids.device))
        return torch.cat(parts)


class BidirectionalAutoencoderForMaskedLM(BidirectionalAutoencoderPreTrainedModel):
    """Encoder, decoder and head."""

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.model = BidirectionalAutoencoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        embedding = "embed_tokens" if config.bert_config is None else "bert.embeddings.word_embeddings"
        self._tied_weights_keys = {"lm_head.weight": f"model.encoder.{embedding}.weight"}
        self.post_init()

    def forward(self, input_ids: Int[Tensor, "batch length"], **others: Any) -> MaskedLMOutput:
        """Return logits, batch × length × vocabulary. `others` are passed to the model without the head."""
        return MaskedLMOutput(logits=self.lm_head(self.model(input_ids, **others).last_hidden_state))


AutoConfig.register(BidirectionalAutoencoderConfig.model_type, BidirectionalAutoencoderConfig)
AutoModel.register(BidirectionalAutoencoderConfig, BidirectionalAutoencoderModel)
AutoModelForMaskedLM.register(BidirectionalAutoencoderConfig, BidirectionalAutoencoderForMaskedLM)
