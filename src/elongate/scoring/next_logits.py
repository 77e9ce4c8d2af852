"""The logits of the token after a text that grows, read with a cache wherever the model allows one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.models.language_model import LanguageModel

CHUNK = 512  # tokens of a long text that are read at a time


def next_logits(model: LanguageModel, length: int) -> Callable[[Tensor], Tensor]:
    """Return a function that maps texts [rows, length] to the logits [rows, vocab] of the token after each.

    Every call gets the texts of the last one with further tokens, and reads only those: through the kernel, through
    the cache of transformers, or, where the model allows neither, the whole texts. `length`: tokens, at the end.
    Frequencies that depend on the length of the text are those of `length` from the first token on: keys in a cache
    cannot be rotated again.
    """
    import torch

    shape = torch.zeros(1, length, dtype=torch.long, device=model.device)
    if reads_in_chunks(model):
        return _by_kernel(model, length)
    if model.layout(shape, None).is_plain and model.continues_from_cache:
        return _by_transformers(model, length)
    return lambda texts: model.logits(model.hidden(texts)[:, -1])


def reads_in_chunks(model: LanguageModel) -> bool:
    """Return whether the model reads a text in chunks as it does as a whole: its tokens meet in our attention only."""
    return "regions" in model.has and model.receives_layouts and model.meets_in_attention


def _by_kernel(model: LanguageModel, length: int) -> Callable[[Tensor], Tensor]:
    import torch

    from elongate.context.attention.kernel.kv_cache import KeyValueCache

    layout, cache, read = model.layout(torch.zeros(1, length, dtype=torch.long), None), KeyValueCache(), 0

    def following(texts: Tensor) -> Tensor:
        nonlocal read
        while read < texts.shape[1]:
            chunk = (read, min(read + CHUNK, texts.shape[1]))
            states = model.hidden(texts[:, slice(*chunk)], None, layout.for_chunk(chunk, cache))
            read = chunk[1]
        return model.logits(states[:, -1])

    return following


def _by_transformers(model: LanguageModel, length: int) -> Callable[[Tensor], Tensor]:
    model.set_text_length(length)
    cache = None

    def following(texts: Tensor) -> Tensor:
        nonlocal cache
        unread = texts if cache is None else texts[:, -1:]
        read = model.network(input_ids=unread, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = read.past_key_values
        return read.logits[:, -1]

    return following
