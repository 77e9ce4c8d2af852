"""The table of learned positions of a network: a row a position, made longer in place."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from elongate.context.position.table import Table

_NAMES = ("wpe", "position_embeddings")  # GPT-2's, and that of BERT and its kin


class _Nothing(Table):
    word = "nothing"

    def extended(self, rows: Float[Tensor, "original dim"], length: int) -> Float[Tensor, "length dim"]:
        return rows.new_zeros(length, rows.shape[1])


class LearnedPositions:
    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network

    def __bool__(self) -> bool:
        return bool(self._tables())

    @property
    def length(self) -> int:
        """Positions that the table has."""
        (_, module), *_ = self._tables()
        return module.num_embeddings

    def set(self, table: Table, original_length: int, length: int) -> dict[str, Any]:
        """Makes the table longer, once: it is trained, so it cannot be made anew from what it was. Returns the proof."""
        found = self._tables()
        before = self.length
        if length > before:
            for parent, module in found:
                with torch.no_grad():
                    rows = table.extended(module.weight, length)
                module.weight = nn.Parameter(rows)
                module.num_embeddings = length
                # BERT's embeddings remember the numbers of all positions beside the table.
                for name, buffer in list(parent.named_buffers(recurse=False)):
                    if buffer.shape[-1:] == (before,):
                        made = torch.arange(length) if name == "position_ids" else torch.zeros(length, dtype=buffer.dtype)
                        parent.register_buffer(name, made[None].to(buffer.device), persistent=False)
            self.network.config.max_position_embeddings = length
        return {"table": {"original_length": original_length, "length": self.length}}

    def switch_off(self, original_length: int, length: int) -> None:
        """No position has a vector any more, of `length` positions now; nor will training give it one."""
        self.set(_Nothing(), original_length, length)
        for _, module in self._tables():
            module.weight.requires_grad_(False)
            module.weight.zero_()

    def _tables(self) -> list[tuple[nn.Module, nn.Embedding]]:
        """(parent, table) of every table of positions."""
        return [
            (parent, module)
            for parent in self.network.modules()
            for name, module in parent.named_children()
            if name in _NAMES and isinstance(module, nn.Embedding)
        ]
