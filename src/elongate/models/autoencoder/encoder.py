"""The encoder turns a block of tokens into latents. It sees both sides of the block and no other block.

If a block has fewer latents than tokens, learned slots are appended to it, and their last states
are the latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, BertConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig
from elongate.models.autoencoder.layer import Layer, Rotation


def latent_positions(length: int, latents: int, device: torch.device) -> Int[Tensor, " latents"]:
    """Return the middle of the tokens that each latent of a block replaces: floor((j + 1/2) · length / latents)."""
    return (2 * torch.arange(latents, device=device) + 1) * length // (2 * latents)


class BlockEncoder(GradientCheckpointingLayer, ABC):
    """Encodes blocks. With activation checkpointing, a call stores only its token ids and its latents."""

    embed_tokens: nn.Embedding

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        compresses = config.latents_per_block < config.block_length
        self.slots = nn.Embedding(config.latents_per_block, config.hidden_size) if compresses else None

    def num_latents(self, length: int) -> int:
        """Return the number of latents of a block of `length` tokens."""
        return length if self.slots is None else self.slots.num_embeddings

    def forward(self, blocks: Int[Tensor, "blocks length"]) -> Float[Tensor, "blocks latents dim"]:
        hidden, length = self.embed_tokens(blocks), blocks.shape[1]
        if self.slots is not None:
            hidden = torch.cat([hidden, self.slots.weight.expand(len(blocks), -1, -1)], dim=1)
        return self.read(hidden, length)[:, -self.num_latents(length) :]

    @abstractmethod
    def read(self, embedded: Float[Tensor, "blocks states dim"], length: int) -> Float[Tensor, "blocks states dim"]:
        """Return the last states of blocks of `length` tokens and of the slots after them."""


class Encoder(BlockEncoder):
    """Layers like the decoder's, with rotary positions within the block; a slot has the position of its latent."""

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_encoder_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def read(self, embedded: Float[Tensor, "blocks states dim"], length: int) -> Float[Tensor, "blocks states dim"]:
        positions = torch.arange(length, device=embedded.device)
        if self.slots is not None:
            positions = torch.cat([positions, latent_positions(length, self.slots.num_embeddings, embedded.device)])
        rotation = self._rotation(positions, embedded.dtype)
        for layer in self.layers:
            embedded = layer(embedded, rotation)
        return self.norm(embedded)

    def _rotation(self, positions: Int[Tensor, " length"], dtype: torch.dtype) -> Rotation:
        """Compute the angles without a rotary module, which a scaling would find: distances in a block never grow."""
        dim = self.config.hidden_size // self.config.num_attention_heads
        pairs = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32)
        angles = positions[None, :, None] * self.config.encoder_rope_theta ** -(pairs / dim)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class BertEncoder(BlockEncoder):
    """A pretrained BERT (Devlin et al. 2018, arXiv:1810.04805) without its pooler.

    Slots have the positions after the block's tokens. Blocks have no [CLS] and [SEP], because they
    are cut from the middle of texts.
    """

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__(config)
        self.bert = AutoModel.from_config(BertConfig(**(config.bert_config or {})), add_pooling_layer=False)

    @property
    def embed_tokens(self) -> nn.Embedding:  # type: ignore[override]  # BERT's own
        return self.bert.get_input_embeddings()

    def read(self, embedded: Float[Tensor, "blocks states dim"], length: int) -> Float[Tensor, "blocks states dim"]:
        return self.bert(inputs_embeds=embedded).last_hidden_state
