"""What a layer does to its attention without telling the attention function: chunks, and a temperature by position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elongate.context.attention.kernel.layout import Layout


def chunk_size(module: nn.Module) -> int | None:
    """Tokens of the chunks that see only themselves (Llama 4); None: the layer has no chunks.

    Transformers applies them in the mask of a layer.
    """
    config = getattr(module, "config", None)
    number, types = getattr(module, "layer_idx", None), getattr(config, "layer_types", None)
    if number is None or types is None or number >= len(types) or types[number] != "chunked_attention":
        return None
    return int(config.attention_chunk_size)  # type: ignore[union-attr]  # such layers have it


def at_true_positions(module: nn.Module, query: Tensor, layout: Layout) -> Tensor:
    """The query, with the factor of its position in the document where the layer used its position in this call.

    Layers of Llama 4 without rotation multiply queries by 1 + attn_scale · log(1 + ⌊(position + 1) / floor_scale⌋)
    (arXiv:2501.19399), with positions counted from the first token that they are given.
    """
    if not getattr(module, "attn_temperature_tuning", False) or getattr(module, "use_rope", True):
        return query
    start, stop = layout.chunk
    true = torch.stack([torch.cat([torch.arange(stop - start) for start, stop in row]) for row in layout.documents])[:, start:stop]
    if torch.equal(true, torch.arange(stop - start).expand_as(true)):
        return query

    def factor(positions: Tensor) -> Tensor:
        steps = ((positions.double() + 1) / module.floor_scale).floor()
        return steps.log1p() * module.attn_scale + 1

    ratio = factor(true) / factor(torch.arange(stop - start))
    return query * ratio[:, None, :, None].to(query)
