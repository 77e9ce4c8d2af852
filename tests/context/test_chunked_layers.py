"""Layers of Llama 4 that see chunks, and those without rotation whose queries have a temperature, against eager attention."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import pytest
import torch
from tests.networks import SIZES, VOCAB
from torch import Tensor
from torch.testing import assert_close
from transformers import Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4TextModel

from elongate.context.attention.attention import Pattern
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.context.attention.kernel.kv_store import KeyValueStore
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.window import WindowPattern

LENGTH, CHUNK, WIDTH = 22, 8, 5
TOKENS = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))


@lru_cache
def network() -> Llama4TextModel:
    """One layer of chunks and one that sees everything, whose temperature changes every three tokens."""
    torch.manual_seed(0)
    fields: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size_mlp": 48, "moe_layers": []}
    settings = {"attention_chunk_size": CHUNK, "no_rope_layers": [1, 0], "floor_scale": 3, "attn_scale": 0.5}
    built = Llama4TextModel(Llama4TextConfig(**fields, **settings)).double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return built


@lru_cache
def attending(implementation: str) -> Llama4TextModel:
    built = copy.deepcopy(network())
    built.set_attn_implementation(implementation)
    return built


def states(implementation: str, tokens: Tensor = TOKENS, **words: Any) -> Tensor:
    with torch.no_grad():
        return attending(implementation)(input_ids=tokens, use_cache=False, **words).last_hidden_state


def layout(pattern: Pattern, positions: Tensor | None = None) -> Layout:
    return Layout.for_batch(pattern, (2, LENGTH), positions, None)


def test_chunks_and_temperature_are_those_of_transformers() -> None:
    expected = states("eager")
    assert_close(states(IMPLEMENTATION), expected, rtol=0, atol=1e-6)
    assert_close(states(IMPLEMENTATION, layout=layout(Full())), expected, rtol=0, atol=1e-6)


def test_a_window_acts_within_chunks() -> None:
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    seen = (distance >= 0) & (distance < WIDTH)
    same = torch.arange(LENGTH)[:, None] // CHUNK == torch.arange(LENGTH) // CHUNK
    masks = {"full_attention": seen, "chunked_attention": seen & same}
    masks = {name: torch.where(mask, 0.0, -torch.inf).double().expand(2, 1, LENGTH, LENGTH) for name, mask in masks.items()}
    assert_close(states(IMPLEMENTATION, layout=layout(WindowPattern(WIDTH))), states("eager", attention_mask=masks), rtol=0, atol=1e-6)


def test_pieces_of_a_text_have_the_states_of_the_whole() -> None:
    whole, store = layout(Full()), KeyValueStore(past={})
    pieces = []
    for start in range(0, LENGTH, 7):
        piece = (start, min(start + 7, LENGTH))
        numbers = torch.arange(*piece)[None]
        pieces.append(states(IMPLEMENTATION, TOKENS[:, slice(*piece)], layout=whole.for_chunk(piece, store), position_ids=numbers))
    assert_close(torch.cat(pieces, dim=1), states("eager"), rtol=0, atol=1e-6)


def test_each_document_is_computed_as_if_it_were_alone() -> None:
    positions = torch.cat([torch.arange(9), torch.arange(LENGTH - 9)]).expand(2, -1)
    together = states(IMPLEMENTATION, layout=layout(Full(), positions), position_ids=positions)
    assert_close(together[:, :9], states("eager", TOKENS[:, :9]), rtol=0, atol=1e-6)
    assert_close(together[:, 9:], states("eager", TOKENS[:, 9:]), rtol=0, atol=1e-6)


def test_a_cache_of_chunks_is_refused_once_a_chunk_is_full() -> None:
    built = attending(IMPLEMENTATION)
    with torch.no_grad():
        cache = built(input_ids=TOKENS[:, : CHUNK + 1], use_cache=True).past_key_values
        with pytest.raises(ValueError, match="does not support a cache of chunks of 8 tokens: load the model with sdpa"):
            built(input_ids=TOKENS[:, CHUNK + 1 : CHUNK + 2], past_key_values=cache, use_cache=True)
