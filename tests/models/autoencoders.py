"""Tiny autoencoders with weights that attend: fresh ones hardly do."""

from __future__ import annotations

from typing import Any

import torch

from elongate.models.autoencoder.autoencoder import Autoencoder
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder

VOCAB, BLOCK = 60, 4
SIZES: dict[str, Any] = {
    "original_length": 16,
    "block_length": BLOCK,
    "latents_per_block": BLOCK,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_dim": 48,
}


def autoencoder(dtype: torch.dtype = torch.float64, **fields: Any) -> Autoencoder:
    """The same weights at every call."""
    built = BidirectionalAutoencoder(**SIZES | fields).build(VOCAB, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in built.network.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    built.network.to(dtype)
    return built  # type: ignore[return-value]
