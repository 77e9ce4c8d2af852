"""What is found out about a network by running it on a few tokens, whatever its architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elongate.context.attention.attention import Pattern, Region
from elongate.context.attention.full import Full
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.kv_store import KeyValueStore

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


class _Turned(Full):
    """Full attention whose rotation is left to the kernel."""

    rotates = True


class _LastSeesFirst(Pattern):
    """Every token sees itself, and the last one the first."""

    word = "last sees first"

    def within_window(self, width: int) -> Pattern:
        return self

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        return (Region((*blocks.tiles(length, 1, causal), Block((length - 1, length), (0, 1)))),)


def windows_of(model: LanguageModel) -> set[int | None]:
    """Of the layers that read the layout which they are given: each one's own window, None where it has none."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    layout = model.layout(tokens, None)
    layout = layout.for_chunk(layout.chunk, KeyValueStore())
    with model.probed():
        model.hidden(tokens, None, layout)
    return layout.windows


def turns_as_we_do(model: LanguageModel) -> bool:
    """Whether full attention comes out the same when the rotation is left to the kernel."""
    if model.rotary.unlike_plain():
        return False
    tokens, attention = torch.arange(1, 17, device=model.device)[None] % model.network.config.vocab_size, model.attention
    with model.probed():
        model.attention = Full()
        theirs = model.hidden(tokens)
        model.attention = _Turned()
        ours = model.hidden(tokens)
    model.attention = attention
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def knows_distances(model: LanguageModel) -> bool:
    """Whether the network, without slopes, computes another thing for a token that sees one which is farther away."""
    slopes, attention = model.slopes, model.attention
    with model.probed():
        model.slopes, model.attention = (0.0,) * model.network.config.num_attention_heads, _LastSeesFirst()
        texts = [torch.tensor([[1, *between, 2]], device=model.device) % model.network.config.vocab_size for between in ([], [0] * 6)]
        near, far = (model.hidden(text)[:, -1] for text in texts)
    model.slopes, model.attention = slopes, attention
    return not torch.allclose(near, far, rtol=1e-3, atol=1e-3)
