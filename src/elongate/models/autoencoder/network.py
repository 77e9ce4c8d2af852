"""The network of the bidirectional autoencoder, as transformers knows it: importing this module registers it with the Auto classes.

A text is encoded block by block; the decoder sees the latents of all blocks. It decodes in one of two ways: it *reconstructs* the text
that was encoded, all places at once and from both sides, or it *continues* it, token by token. A latent has the position of the part of
the text that it stands for, a decoded token its own, so the decoder's rotary embedding is where the text's length is felt, and extended.

It is registered as a masked language model: given token ids and nothing else, it tells from both sides which token belongs at each place.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from elongate.context.attention.kernel.kv_store import KeyValueStore
from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig
from elongate.models.autoencoder.encoder import BertEncoder, Encoder, places
from elongate.models.autoencoder.layer import DecoderLayer
from elongate.models.autoencoder.stretches import Stretches

READ_AT_ONCE = 1024  # tokens of blocks that the encoder reads, and computes again, together

Encoded = tuple[Float[Tensor, "batch latents dim"], Int[Tensor, "#batch latents"]]  # latents and their positions


class BidirectionalAutoencoderPreTrainedModel(PreTrainedModel):
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
        # An encoder is computed again as a whole: its layers, BERT's too, need not be so once more.
        for part in self.base_model.encoder.children():
            for module in part.modules():
                module.gradient_checkpointing = False


class BidirectionalAutoencoderModel(BidirectionalAutoencoderPreTrainedModel):
    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config) if config.bert_config is None else BertEncoder(config)
        # What the decoder reads at a place to be reconstructed: the place alone tells one from another.
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
        kept: KeyValueStore | None = None,
        **others: Any,
    ) -> BaseModelOutput:
        """Without a context the inputs are encoded and reconstructed: a state for each of them, `position_ids` are theirs.

        With one, the context is encoded and continued: the inputs begin with the last token of the context, and the state of each tells
        the token after it. `position_ids` are those of the whole text: of the context and of all inputs but the first.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("a padded batch cannot be read: give rows of one length")
        if context_ids is None:
            encoded, positions = self.encode(input_ids, position_ids), self._positions(position_ids, 0, input_ids)
            blanks = self.blank.weight.expand(*input_ids.shape, -1)
            states = self.decode(blanks, positions, encoded, self._own_block(input_ids.shape[1], encoded), False, kept)
        else:
            last = context_ids.shape[1] - 1
            encoded = self.encode(context_ids, None if position_ids is None else position_ids[:, : last + 1])
            positions = self._positions(position_ids, last, input_ids)
            seen = encoded[0].shape[1]
            states = self.decode(self.encoder.embed_tokens(input_ids), positions, encoded, ((input_ids.shape[1], seen),), True, kept)
        return BaseModelOutput(last_hidden_state=states)

    def encode(self, ids: Int[Tensor, "batch length"], positions: Int[Tensor, "#batch length"] | None = None) -> Encoded:
        """Whole blocks from the first token on, and what is left as a shorter one. Positions are those of the tokens; None: 0, 1, 2 …"""
        size, whole = self.config.block_length, ids.shape[1] // self.config.block_length
        found = []
        if whole:
            blocks = ids[:, : whole * size].reshape(-1, size)
            # A call is what is computed again in the backward pass; where all is kept there is nothing to gain from several.
            alone = self.encoder.gradient_checkpointing or not torch.is_grad_enabled()
            groups = blocks.split(max(1, READ_AT_ONCE // size) if alone else len(blocks))
            found.append(torch.cat([self.encoder(group) for group in groups]).reshape(len(ids), -1, self.config.hidden_size))
        if ids.shape[1] > whole * size:
            found.append(self.encoder(ids[:, whole * size :]))
        at = self._places(ids)
        return torch.cat(found, dim=1), at[None] if positions is None else positions[:, at]

    def decode(
        self,
        hidden: Float[Tensor, "batch length dim"],
        positions: Int[Tensor, "#batch length"],
        encoded: Encoded,
        stretches: tuple[tuple[int, int], ...],
        causal: bool,
        kept: KeyValueStore | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Last hidden states of tokens that come in stretches (stretches.py). `kept` holds outputs of attention that are known."""
        latents, at = encoded
        rows = max(len(at), len(positions))
        turn = self.rotary_emb(hidden, torch.cat([at.expand(rows, -1), positions.expand(rows, -1)], dim=1))
        layout = Stretches(num_latents=latents.shape[1], stretches=stretches, causal=causal).layout(kept)
        for layer in self.layers:
            hidden = layer(hidden, turn, latents, layout)
        return self.norm(hidden)

    def _own_block(self, length: int, encoded: Encoded) -> tuple[tuple[int, int], ...]:
        """Blocks of places, each of which sees all latents and itself: no pair of all places with all others."""
        size, seen = self.config.block_length, encoded[0].shape[1]
        return tuple((min(size, length - start), seen) for start in range(0, length, size))

    def _places(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, " latents"]:
        """The number of the token whose position each latent has."""
        size, length = self.config.block_length, ids.shape[1]
        sizes = [min(size, length - start) for start in range(0, length, size)]
        return torch.cat([i * size + places(n, self.encoder.num_latents(n), ids.device) for i, n in enumerate(sizes)])

    @staticmethod
    def _positions(given: Tensor | None, first: int, ids: Int[Tensor, "batch length"]) -> Int[Tensor, "#batch length"]:
        return torch.arange(first, first + ids.shape[1], device=ids.device)[None] if given is None else given[:, first:]


class BidirectionalAutoencoderForMaskedLM(BidirectionalAutoencoderPreTrainedModel):
    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.model = BidirectionalAutoencoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        embedding = "embed_tokens" if config.bert_config is None else "bert.embeddings.word_embeddings"
        self._tied_weights_keys = {"lm_head.weight": f"model.encoder.{embedding}.weight"}
        self.post_init()

    def forward(self, input_ids: Int[Tensor, "batch length"], **others: Any) -> MaskedLMOutput:
        """Logits batch × length × vocabulary; what else it takes is that of the model without its head."""
        return MaskedLMOutput(logits=self.lm_head(self.model(input_ids, **others).last_hidden_state))


AutoConfig.register(BidirectionalAutoencoderConfig.model_type, BidirectionalAutoencoderConfig)
AutoModel.register(BidirectionalAutoencoderConfig, BidirectionalAutoencoderModel)
AutoModelForMaskedLM.register(BidirectionalAutoencoderConfig, BidirectionalAutoencoderForMaskedLM)
