"""A layer of encoder and decoder: grouped-query attention and a gated MLP, each after a norm, as in Llama.

Touvron et al. 2023, arXiv:2307.09288. Queries are computed from the states that the layer changes;
keys and values from the latents and these states, with the same matrices.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

from elongate.context.attention.kernel.interface import attention
from elongate.context.attention.kernel.layout import Layout
from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig

# Cosine and sine of every key's angles.
Rotation = tuple[Float[Tensor, "#batch keys head_dim"], Float[Tensor, "#batch keys head_dim"]]


class BlockAttention(nn.Module):
    """Attention in which the last states of a sequence are the queries and all states are keys."""

    is_causal = False  # without a layout: within a block, all tokens see each other

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        kv_dim = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        states: Float[Tensor, "batch keys dim"],
        queries: int,
        rotation: Rotation,
        layout: Layout | None,
    ) -> Tensor:
        """Return batch × queries × dim, for the last `queries` states."""
        projected = self.q_proj(states[:, -queries:]), self.k_proj(states), self.v_proj(states)
        q, k, v = map(self._heads, projected)
        cosine, sine = rotation
        q, _ = apply_rotary_pos_emb(q, q, cosine[:, -queries:], sine[:, -queries:])
        k, _ = apply_rotary_pos_emb(k, k, cosine, sine)
        out, _ = attention(self, q, k, v, None, layout=layout)
        return self.o_proj(out.flatten(2))

    def _heads(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch heads length head_dim"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Layer(nn.Module):
    """A layer of the encoder."""

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__()
        self.self_attn = BlockAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Float[Tensor, "batch length dim"],
        rotation: Rotation,
        latents: Float[Tensor, "batch latents dim"] | None = None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """`rotation` is that of latents, then states. Without a layout, all tokens see each other."""
        seen = hidden if latents is None else torch.cat([latents, hidden], dim=1)
        hidden = hidden + self.self_attn(self.input_layernorm(seen), hidden.shape[1], rotation, layout)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class DecoderLayer(Layer, GradientCheckpointingLayer):
    """A layer of the decoder, which a memory plan may recompute in the backward pass.

    The layers of an encoder are recomputed together instead.
    """
