"""How a network can be called: found by calling it on a few tokens and comparing what it computes."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from elongate.context.attention.full import Full
from elongate.context.attention.kernel.delivery import deliver_layouts, recorded_layouts
from elongate.context.attention.kernel.kv_store import KeyValueStore
from elongate.context.attention.kernel.layout import Layout
from elongate.models.parts import language_config

Tokens = Int[Tensor, "1 length"]


def tolerance(states: Tensor, least: float) -> float:
    """Return how far states that are computed in two ways may be apart, relative to their norm, in their precision.

    In bfloat16, chunks of tiny networks are 0.7 to 1.4 percent apart by rounding, and 16 percent or more where tokens
    meet outside attention.
    """
    return max(least, 8 * torch.finfo(states.dtype).eps)


def same_states(some: Tensor, others: Tensor, least: float = 1e-3) -> bool:
    """Return whether states are the same up to rounding."""
    return bool((some - others).float().norm() <= tolerance(others, least) * others.float().norm())


def same_in_chunks(hidden: Callable[..., Tensor], tokens: Tokens, layout: Layout) -> bool:
    """Return whether a text has the same hidden states in two chunks, which meet in attention only, as in one."""
    length, kept = tokens.shape[1], KeyValueStore(past={})
    chunks = ((0, length // 2), (length // 2, length))
    halves = [hidden(tokens[:, slice(*chunk)], None, layout.for_chunk(chunk, kept)) for chunk in chunks]
    return same_states(torch.cat(halves, dim=1), hidden(tokens, None))


def same_alone(hidden: Callable[..., Tensor], tokens: Tokens, length: int) -> bool:
    """Return whether documents of this length in one row have the hidden states that they have alone."""
    documents = tokens.split(length, dim=1)
    positions = torch.arange(length, device=tokens.device).repeat(len(documents))[None]
    alone = torch.cat([hidden(document) for document in documents], dim=1)
    return same_states(hidden(tokens, positions), alone)


def uses_interface(network: PreTrainedModel) -> bool:
    """Return whether attention goes through the interface of transformers.

    Falcon, GPT-J, GPT-Neo, BLOOM, MPT, CodeGen and XGLM have an attention of their own in transformers 5.23.
    """
    homes = {sys.modules[type(module).__module__] for module in network.modules()}
    return any(hasattr(home, "ALL_ATTENTION_FUNCTIONS") or home.__name__.startswith("elongate.") for home in homes)


def receives_layouts(network: PreTrainedModel, body: PreTrainedModel, tokens: Tokens) -> bool:
    """Return whether layouts reach the attention of the layers, after a remedy where layers drop them."""
    layout = Layout.for_batch(Full(), (1, tokens.shape[1]), None, None)
    with recorded_layouts() as arrived:
        body(input_ids=tokens, use_cache=False, layout=layout)
    if not all(arrived):
        deliver_layouts(network)
    return bool(arrived)


def continues_from_cache(network: PreTrainedModel, tokens: Tokens) -> bool:
    """Return whether transformers computes a text from a cache of its start as it does without one.

    With some recurrences (Bamba, Nemotron-H) transformers 5.23 does not. A cache of chunks (Llama 4) does not tell
    where they begin.
    """
    if "chunked_attention" in (getattr(language_config(network), "layer_types", None) or ()):
        return False
    start, rest = tokens.tensor_split(2, dim=1)
    whole = network(input_ids=tokens, use_cache=False).logits[:, start.shape[1] :]
    cache = network(input_ids=start, use_cache=True).past_key_values
    parts = []
    for token in rest.split(1, dim=1):
        read = network(input_ids=token, past_key_values=cache, use_cache=True)
        cache = read.past_key_values
        parts.append(read.logits)
    return same_states(torch.cat(parts, dim=1), whole)
