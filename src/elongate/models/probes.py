"""Properties of a network that are found by running it on a few tokens, for any architecture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from elongate.context.attention.attention import Pattern, Region
from elongate.context.attention.full import Full
from elongate.context.attention.kernel import blocks
from elongate.context.attention.kernel.blocks import Block
from elongate.context.attention.kernel.kv_store import KeyValueStore
from elongate.models.language_model import LanguageModel
from elongate.models.parts import layer_config

_SPARSE = re.compile("window|local_attention|attention_chunk|^index_")  # settings from which length on attention is sparse
_LONGEST = 512  # tokens of a probe: longer ones take minutes on a CPU


class _RotatedByKernel(Full):
    """Full attention whose rotation is left to the kernel."""

    rotates = True


class _LastSeesFirst(Pattern):
    """Every token sees itself, and the last token also sees the first."""

    word = "last sees first"

    def within_window(self, width: int) -> Pattern:
        return self

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        return (Region((*blocks.tiles(length, 1, causal), Block((length - 1, length), (0, 1)))),)


def layer_windows(model: LanguageModel) -> set[int | None]:
    """Return the sliding windows of the layers that use our attention (None: no window); empty if no layer does."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    layout = model.layout(tokens, None)
    layout = layout.for_chunk(layout.chunk, KeyValueStore())
    with model.probed():
        model.hidden(tokens, None, layout)
    return layout.windows


def kernel_rotates_alike(model: LanguageModel) -> bool:
    """Return whether full attention gives the same states when the kernel rotates queries and keys."""
    if "rope_type" not in model.positions.rotary.trained:
        return False  # layers differ, and the kernel has one set of frequencies
    tokens = torch.arange(1, 17, device=model.device)[None] % model.vocab_size
    attention = model.attention
    with model.probed():
        model.attention = Full()
        theirs = model.hidden(tokens)
        model.attention = _RotatedByKernel()
        ours = model.hidden(tokens)
    model.attention = attention
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def distance_matters(model: LanguageModel) -> bool:
    """Return whether, with slopes of zero, a token's state depends on how far away the token is that it sees."""
    positions, attention, config = model.positions, model.attention, model.config
    slopes = positions.slopes
    with model.probed():
        positions.slopes, model.attention = (0.0,) * layer_config(config).num_attention_heads, _LastSeesFirst()
        texts = [torch.tensor([[1, *between, 2]], device=model.device) % model.vocab_size for between in ([], [0] * 6)]
        near, far = (model.hidden(text)[:, -1] for text in texts)
    positions.slopes, model.attention = slopes, attention
    return not torch.allclose(near, far, rtol=1e-3, atol=1e-3)


def attention_error(model: LanguageModel) -> float:
    """Return how far our attention moves the states from those of transformers' own, relative to these, for the worst token.

    The text is long enough for attention to become sparse, if the configuration states such a length below 512 tokens.
    """
    config = model.config
    sparse = [n for key, n in config.to_dict().items() if _SPARSE.search(key) and isinstance(n, int) and n < _LONGEST]
    tokens = model.probe_text(max(16, *sparse, 0) + 8)
    with model.probed():
        ours = model.hidden(tokens).double()
        with _own_attention(model.network):
            theirs = model.hidden(tokens).double()
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())


@contextmanager
def _own_attention(network: PreTrainedModel) -> Iterator[None]:
    """Let the network compute attention, and the mask that it may read, as its authors wrote it."""
    configs = [module.config for module in network.modules() if isinstance(module, PreTrainedModel)]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        # `set_attn_implementation` changes nothing, the mask included, where an attention is written without the interface.
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def run_all(model: LanguageModel) -> None:
    """Find now what is otherwise found at its first use by running the network, so that no measurement includes it."""
    _ = model.adjustment, model.receives_layouts, model.separates_documents, model.is_causal and model.continues_from_cache
