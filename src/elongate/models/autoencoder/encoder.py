"""The encoder: a block of tokens becomes latents. It sees the block from both sides, and nothing else.

Where a block has fewer latents than tokens, learned slots are read with it, and their last states are the latents.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig
from elongate.models.autoencoder.layer import Layer, Turn


def places(length: int, latents: int, device: torch.device) -> Int[Tensor, " latents"]:
    """Of each latent in a block of `length` tokens: the middle of the tokens that it stands for, floor((j + 1/2) · length / latents)."""
    return (2 * torch.arange(latents, device=device) + 1) * length // (2 * latents)


class Encoder(GradientCheckpointingLayer):
    """Under activation checkpointing nothing of a call is kept but its token ids and its latents."""

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        compresses = config.latents_per_block < config.block_length
        self.slots = nn.Embedding(config.latents_per_block, config.hidden_size) if compresses else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_encoder_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def num_latents(self, length: int) -> int:
        """Of a block of `length` tokens."""
        return length if self.slots is None else self.slots.num_embeddings

    def forward(self, blocks: Int[Tensor, "blocks length"]) -> Float[Tensor, "blocks latents dim"]:
        hidden, positions = self.embed_tokens(blocks), torch.arange(blocks.shape[1], device=blocks.device)
        if self.slots is not None:
            hidden = torch.cat([hidden, self.slots.weight.expand(len(blocks), -1, -1)], dim=1)
            positions = torch.cat([positions, places(blocks.shape[1], self.slots.num_embeddings, blocks.device)])
        turn = self._turn(positions, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, turn)
        return self.norm(hidden[:, -self.num_latents(blocks.shape[1]) :])

    def _turn(self, positions: Int[Tensor, " length"], dtype: torch.dtype) -> Turn:
        """No buffer, and no rotary embedding of transformers, which a scaling would find: within a block no distance grows."""
        dim = self.config.hidden_size // self.config.num_attention_heads
        pairs = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32)
        angles = positions[None, :, None] * self.config.encoder_rope_theta ** -(pairs / dim)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)
