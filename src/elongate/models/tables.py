"""The table of learned positions of a network: a row a position, made longer in place, and proved.

Some tables have rows that are no positions, before all others: RoBERTa and its kin keep them for padding and count their tokens from
behind them; OPT adds the two by itself. These rows are kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from elongate.context.position.table import Table

_NAMES = ("wpe", "position_embeddings", "embed_positions")  # GPT-2's, BERT's, OPT's
# What the embeddings of BERT and its kin remember about all rows beside the table.
_BESIDE: dict[str, Callable[[int], Tensor]] = {"position_ids": torch.arange, "token_type_ids": lambda rows: torch.zeros(rows).long()}


class LearnedPositions:
    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        self._proof: dict[str, Any] | None = None
        tables = self._tables()
        padding = tables[0][1].padding_idx if tables else None
        self.first = 0 if padding is None else padding + 1  # the number that the network knows position 0 by
        self._kept = self.first or (getattr(tables[0][1], "offset", 0) if tables else 0)  # rows before that of position 0

    def __bool__(self) -> bool:
        return bool(self._tables())

    @property
    def length(self) -> int:
        """Positions that the table has."""
        return self._tables()[0][1].num_embeddings - self._kept

    def set(self, table: Table, original_length: int, length: int) -> dict[str, Any]:
        """Makes the table longer, once: it is trained, so it cannot be made anew from what it was. Returns the proof of that time."""
        if self._proof is None:
            closed = table.extended(self._rows().double(), length)
            if length > self.length:
                self._replace(closed)
            lengths = {"original_length": original_length, "length": self.length}
            self._proof = {"table": lengths | {"row_error": self._row_error(closed, original_length, table.word)}}
        assert length <= self.length, "whoever extends in stages names the longest first"
        return self._proof

    def _replace(self, rows: Float[Tensor, "length dim"]) -> None:
        length, before = len(rows), self.length + self._kept
        tables = self._tables()
        # A table that is shared, as a module or as a weight, stays so.
        longer = {module.weight: self._longer(module.weight, rows) for _, module in tables}
        for module, weight in [(module, longer[module.weight]) for _, module in tables]:
            module.weight, module.num_embeddings = weight, length + self._kept
        for parent, _ in tables:
            for name, made in _BESIDE.items():
                if (buffer := parent._buffers.get(name)) is not None and buffer.shape[-1] == before:
                    parent._buffers[name] = made(length + self._kept)[None].to(buffer.device)
        self.network.config.max_position_embeddings = length + self.first

    def _longer(self, old: nn.Parameter, rows: Float[Tensor, "length dim"]) -> nn.Parameter:
        return nn.Parameter(torch.cat([old.detach()[: self._kept], rows.to(old.dtype)]), requires_grad=old.requires_grad)

    def _rows(self) -> Float[Tensor, "length dim"]:
        return self._tables()[0][1].weight.detach()[self._kept :]

    def _row_error(self, closed: Float[Tensor, "length dim"], original_length: int, word: str) -> float:
        """How far the table, and what the network looks up in it, are from the closed form."""
        error, last = (self._rows().double() - closed).abs().max(), len(closed) - 1
        # The first, the first new and the last one: a network that stops at the old end is found out.
        places = torch.tensor(sorted({0, min(original_length, last), last}), device=closed.device)
        for found in self._looked_up(places):
            error = torch.maximum(error, (found.double() - closed[places]).abs().max())
        if error > torch.finfo(self._rows().dtype).eps * closed.abs().max():
            raise AssertionError(f"{word} is not on: rows off by {error:.1e}")
        return float(error)

    def _looked_up(self, positions: Tensor) -> list[Tensor]:
        """By every table, for tokens at these positions."""
        found: list[Tensor] = []
        hooks = [module.register_forward_hook(lambda module, given, rows: found.append(rows[0])) for _, module in self._tables()]
        numbers = positions[None] + self.first
        with torch.no_grad():
            self.network.base_model(input_ids=torch.zeros_like(numbers), position_ids=numbers, use_cache=False)
        for hook in hooks:
            hook.remove()
        return found

    def switch_off(self, length: int) -> None:
        """No position has a vector any more, and there are `length` of them at least; nor will training give it one."""
        if length > self.length:
            self._replace(self._rows().new_zeros(length, self._rows().shape[1]))
        for _, module in self._tables():
            module.weight.requires_grad_(False)
            module.weight.zero_()

    def _tables(self) -> list[tuple[nn.Module, nn.Embedding]]:
        """(parent, table) of every table of positions."""
        return [
            (parent, module)
            for parent in self.network.modules()
            for name, module in parent.named_children()
            # One that is computed (RoFormer's) has no offset.
            if name in _NAMES and isinstance(module, nn.Embedding) and (name != "embed_positions" or hasattr(module, "offset"))
        ]
