"""The encoder: a block of tokens becomes latents. It sees the block from both sides, and nothing else.

Where a block has fewer latents than tokens, learned slots are read with it, and their last states are the latents.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, BertConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig
from elongate.models.autoencoder.layer import Layer, Turn


def places(length: int, latents: int, device: torch.device) -> Int[Tensor, " latents"]:
    """Of each latent in a block of `length` tokens: the middle of the tokens that it stands for, floor((j + 1/2) · length / latents)."""
    return (2 * torch.arange(latents, device=device) + 1) * length // (2 * latents)


class BlockEncoder(GradientCheckpointingLayer):
    """Under activation checkpointing nothing of a call is kept but its token ids and its latents."""

    embed_tokens: nn.Embedding

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        compresses = config.latents_per_block < config.block_length
        self.slots = nn.Embedding(config.latents_per_block, config.hidden_size) if compresses else None

    def num_latents(self, length: int) -> int:
        """Of a block of `length` tokens."""
        return length if self.slots is None else self.slots.num_embeddings

    def forward(self, blocks: Int[Tensor, "blocks length"]) -> Float[Tensor, "blocks latents dim"]:
        hidden, length = self.embed_tokens(blocks), blocks.shape[1]
        if self.slots is not None:
            hidden = torch.cat([hidden, self.slots.weight.expand(len(blocks), -1, -1)], dim=1)
        return self.read(hidden, length)[:, -self.num_latents(length) :]

    def read(self, embedded: Float[Tensor, "blocks states dim"], length: int) -> Float[Tensor, "blocks states dim"]:
        """Last states of blocks of `length` tokens and of the slots behind these."""
        raise NotImplementedError


class Encoder(BlockEncoder):
    """Layers like the decoder's, with rotary positions within the block; a slot stands where its latent will."""

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_encoder_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def read(self, embedded: Float[Tensor, "blocks states dim"], length: int) -> Float[Tensor, "blocks states dim"]:
        positions = torch.arange(length, device=embedded.device)
        if self.slots is not None:
            positions = torch.cat([positions, places(length, self.slots.num_embeddings, embedded.device)])
        turn = self._turn(positions, embedded.dtype)
        for layer in self.layers:
            embedded = layer(embedded, turn)
        return self.norm(embedded)

    def _turn(self, positions: Int[Tensor, " length"], dtype: torch.dtype) -> Turn:
        """No buffer, and no rotary embedding of transformers, which a scaling would find: within a block no distance grows."""
        dim = self.config.hidden_size // self.config.num_attention_heads
        pairs = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32)
        angles = positions[None, :, None] * self.config.encoder_rope_theta ** -(pairs / dim)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class BertEncoder(BlockEncoder):
    """A pretrained BERT (Devlin et al. 2018, arXiv:1810.04805) without its pooler. Slots have the positions behind the block's tokens.

    Blocks are read without [CLS] and [SEP]: they are cut from the middle of texts.
    """

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.bert = AutoModel.from_config(BertConfig(**(config.bert_config or {})), add_pooling_layer=False)

    @property
    def embed_tokens(self) -> nn.Embedding:  # type: ignore[override]  # BERT's own
        return self.bert.get_input_embeddings()

    def read(self, embedded: Float[Tensor, "blocks states dim"], length: int) -> Float[Tensor, "blocks states dim"]:
        return self.bert(inputs_embeds=embedded).last_hidden_state
