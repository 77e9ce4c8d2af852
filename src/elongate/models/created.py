"""What a network computes from its trained length when it is created, besides its table of positions.

GPT-Neo keeps its mask, Nyströmformer the numbers of its positions, and MRA derives how many blocks it attends to. All
are found by describing the network twice, without weights: with the old length and with the new one.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel


def described(network: PreTrainedModel) -> PreTrainedModel:
    """Return the network that the configuration describes, without weights."""
    with torch.device("meta"):
        return type(network)(network.config)


def recreate(network: PreTrainedModel, before: PreTrainedModel) -> None:
    """Give the network the buffers and counts that it has if it is created with its configuration as it is now.

    `before`: the network that the configuration described before it was changed. Raises `AssertionError` if transformers
    does not fill such a buffer, or fills it with other numbers for the trained positions.
    """
    new, old = dict(described(network).named_modules()), dict(before.named_modules())
    for name, module in network.named_modules():
        if name not in new or isinstance(module, nn.Embedding):
            continue
        for count, value in vars(new[name]).items():
            if type(value) is int and vars(old[name]).get(count) != value:
                setattr(module, count, value)
        stale = {key: buffer for key, buffer in new[name]._buffers.items() if _differs(buffer, module._buffers.get(key))}
        for key, buffer in stale.items():
            new[name]._buffers[key] = torch.full(buffer.shape, True if buffer.dtype == torch.bool else -1, dtype=buffer.dtype)
        if stale:
            network._init_weights(new[name])
        for key in stale:
            longer, trained = new[name]._buffers[key], module._buffers[key]
            assert longer is not None
            assert trained is not None
            part = longer[tuple(slice(size) for size in trained.shape)]
            assert torch.equal(part, trained.to(part.device)), f"{name}.{key} is not extended"
            module._buffers[key] = longer.to(trained.device)


def _differs(some: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return some is not None and other is not None and some.shape != other.shape
