"""Hidden states of long texts without gradient, one chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from elongate.context.attention.kernel.kv_store import KeyValueStore

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


def read(
    model: LanguageModel, inputs: Int[Tensor, "batch length"], positions: Int[Tensor, "batch length"] | None, tokens: int
) -> Iterator[tuple[tuple[int, int], Float[Tensor, "batch chunk dim"]]]:
    """Yield each chunk, its first token and the one after its last, with its hidden states.

    At most `tokens` tokens of each row have activations at a time, except where tokens meet outside the attention.
    """
    length = inputs.shape[1]
    step = tokens if model.meets_in_attention else length
    layout = model.layout(inputs, positions)
    store = KeyValueStore(past={}) if step < length else None
    for start in range(0, length, step):
        chunk = (start, min(start + step, length))
        yield chunk, model.hidden(inputs[:, slice(*chunk)], positions, layout.for_chunk(chunk, store))
