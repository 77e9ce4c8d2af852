"""The memory of a training step of the autoencoder."""

from __future__ import annotations

import gc

import pytest
import torch
from tests.memory.test_bytes import Bytes
from tests.models.autoencoders import autoencoder, example

from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.autoencoder import network


def peak_bytes(plan: Memory, blocks: int, latents: int) -> int:
    """Peak memory of a step of continuation, beyond the parameters, their gradients and the batch."""
    # A small encoder: however many blocks there are, the gradient of all its weights exists once.
    model = autoencoder(torch.float32, block_length=8, latents_per_block=latents, num_encoder_layers=1, mlp_dim=8)
    batch = example("continuation", 1, 8 * blocks)
    model.network.train()
    prepared = plan.prepare(model, batch.length)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # Buffers that the first step fills are not counted.
    prepared.backward(model, example("continuation", 1, 8))
    gc.disable()
    try:
        held = [*model.network.parameters(), *(p.grad for p in model.parameters()), *vars(batch).values()]
        with Bytes([tensor for tensor in held if torch.is_tensor(tensor)]) as counting:
            prepared.backward(model, batch)
    finally:
        gc.enable()
    return counting.peak


@pytest.mark.slow
@pytest.mark.parametrize(("latents", "keep"), [(8, False), (2, True), pytest.param(8, True, marks=pytest.mark.grid)])
def test_a_further_token_costs_a_checkpointed_step_a_constant_amount(latents: int, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TOKENS_PER_CALL", 8)  # a block
    few, more, most = (peak_bytes(Checkpoint(keep_attention=keep), blocks, latents) for blocks in (12, 16, 24))
    per_token = (most - more) / (8 * 8)
    assert per_token == pytest.approx((more - few) / (4 * 8), rel=0.02)
    # Per latent (128 bytes): itself, its gradient, and what one decoder layer computes from it; per token of the
    # encoder, nothing.
    assert per_token < 9 * 128 * latents / 8
    few, more = (peak_bytes(Plain(micro_batch_tokens=1), blocks, latents) for blocks in (8, 16))
    assert per_token < (more - few) / (8 * 8) / 2.5


def test_streaming_is_refused() -> None:
    message = r"memory=stream: cannot train model=bidirectional_autoencoder: .*; use memory=checkpoint"
    with pytest.raises(ConfigError, match=message):
        Stream(chunk_length=8).prepare(autoencoder(), 16)
