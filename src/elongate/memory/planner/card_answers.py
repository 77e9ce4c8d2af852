"""What torch asks a card, answered for tensors without numbers, and for a card that is not in this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from elongate.memory.planner.cards import Card


@contextmanager
def card_answers(device: torch.device, card: Card | None) -> Iterator[None]:
    """Answer torch's questions about a CUDA device: which attention it chooses, and what a card that is not here can do."""
    chosen = {"torch.nn.functional.scaled_dot_product_attention": _attention}
    if card is None or torch.cuda.is_available():
        with _patched(chosen if device.type == "cuda" else {}):
            yield
        return
    # The tensors pretend to be on the card, so the autocast of the CPU acts on them.
    autocast, is_enabled, dtype_of = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    answers: dict[str, Any] = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.get_device_capability": lambda device=None: card.capability,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: card.capability >= (8, 0),
        "torch.cuda.get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "torch.cuda.set_rng_state": lambda state, device="cuda": None,
        "torch.autocast": lambda device_type, *args, **keywords: autocast("cpu", *args, **keywords),
        "torch.amp.autocast": lambda device_type, *args, **keywords: autocast("cpu", *args, **keywords),
        "torch.is_autocast_enabled": lambda device_type="cpu": is_enabled("cpu"),
        "torch.get_autocast_dtype": lambda device_type="cpu": dtype_of("cpu"),
    }
    with _patched(answers | chosen):
        yield


@contextmanager
def _patched(answers: dict[str, Any]) -> Iterator[None]:
    patches = [patch(name, answer) for name, answer in answers.items()]
    for made in patches:
        made.start()
    try:
        yield
    finally:
        for made in patches:
            made.stop()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute with the operator that torch chooses on a card. Of tensors without numbers it chooses none that is fused."""
    aten = torch.ops.aten
    if query.dtype in (torch.bfloat16, torch.float16) and attn_mask is None:
        if query.shape[-1] <= 128 and torch.cuda.get_device_capability(query.device) >= (9, 0):
            out: Tensor = aten._scaled_dot_product_cudnn_attention(query, key, value, None, True, dropout_p, is_causal, scale=scale)[0]
        else:
            out = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return out
    if query.shape[1] == key.shape[1]:
        tensors = query, key, value, attn_mask
        efficient: Tensor = aten._scaled_dot_product_efficient_attention(*tensors, True, dropout_p, is_causal, scale=scale)[0]
        return efficient
    plain: Tensor = aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return plain
