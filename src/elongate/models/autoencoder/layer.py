"""A layer of encoder and decoder: grouped-query attention and a gated MLP, each behind a norm, as in Llama (arXiv:2307.09288).

Its queries come from the states that it changes, its keys and values from these and from latents before them, through the same matrices.
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

Turn = tuple[Float[Tensor, "#batch keys head_dim"], Float[Tensor, "#batch keys head_dim"]]  # cosine and sine of every key's angles


class BlockAttention(nn.Module):
    is_causal = False  # what a layout does not say: within a block all see all

    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        kv_dim = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, states: Float[Tensor, "batch keys dim"], queries: int, turn: Turn, layout: Layout | None) -> Tensor:
        """batch × queries × dim, for the last `queries` states."""
        q, k, v = (self._heads(x) for x in (self.q_proj(states[:, -queries:]), self.k_proj(states), self.v_proj(states)))
        cosine, sine = turn
        q, _ = apply_rotary_pos_emb(q, q, cosine[:, -queries:], sine[:, -queries:])
        k, _ = apply_rotary_pos_emb(k, k, cosine, sine)
        out, _ = attention(self, q, k, v, None, layout=layout)
        return self.o_proj(out.flatten(2))

    def _heads(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch heads length head_dim"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, config: BidirectionalAutoencoderConfig) -> None:
        super().__init__()
        self.self_attn = BlockAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Float[Tensor, "batch length dim"],
        turn: Turn,
        latents: Float[Tensor, "batch latents dim"] | None = None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """`turn` is that of latents and states, in this order. No layout: all see all."""
        seen = hidden if latents is None else torch.cat([latents, hidden], dim=1)
        hidden = hidden + self.self_attn(self.input_layernorm(seen), hidden.shape[1], turn, layout)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class DecoderLayer(Layer, GradientCheckpointingLayer):
    """Computed again in the backward pass where memory asks for it. The layers of an encoder are computed again all at once."""
