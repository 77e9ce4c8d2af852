"""Tiny autoencoders whose attention depends on the tokens, texts for them, and their gradients under a memory plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elongate.context.attention.full import Full
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.yarn import Yarn
from elongate.context.strategy import Strategy
from elongate.memory.memory import Memory
from elongate.models.autoencoder.autoencoder import Autoencoder
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.objectives.objective import Example

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
LATENTS = [4, 2, 1]
YARN = Strategy(position=Yarn(), attention=Full(), curriculum=Fixed(), target_length=64)
TEXT = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1))[None, :22]  # no token twice
DECODED = 6  # tokens of it that continue the others, four blocks
CONTEXT, INPUTS = TEXT[:, :-DECODED], TEXT[:, -DECODED - 1 : -1]


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


def example(way: str, rows: int = 2, context: int = 4 * BLOCK) -> Example:
    """A batch of random tokens that are reconstructed or continued."""
    draw = torch.Generator().manual_seed(2)
    text = torch.randint(VOCAB, (rows, context + DECODED), generator=draw)
    if way == "reconstruction":
        # The last block is shorter than the others.
        return Example(text, text.flip(1), torch.ones_like(text, dtype=torch.bool), None)
    targets = text[:, -DECODED:]
    scored = torch.rand(targets.shape, generator=draw) < 0.8
    return Example(text[:, -DECODED - 1 : -1], targets, scored, None, context=text[:, :-DECODED])


def gradients(model: Autoencoder, plan: Memory, batch: Example) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step and the gradient of every parameter."""
    model.network.train()
    loss = plan.prepare(model, batch.length).backward(model, batch)
    return loss, {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Gradients agree relative to their norms."""
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        error = ((ours[name] - gradient).norm() / gradient.norm()).item()
        assert error <= tolerance, f"{name} is off by {error:.1e}"
