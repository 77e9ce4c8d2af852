"""The table of learned positions of a network: one row per position, extended in place, and verified.

Some tables begin with rows that are not positions: RoBERTa-style models keep rows for padding and
count their tokens from the row after them; OPT adds an offset itself. These rows stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from elongate.context.position.table import Table
from elongate.models.created import described, recreate
from elongate.models.parts import language_body, language_config, language_part
from elongate.models.precision import has_narrow_weights

_NAMES = ("wpe", "position_embeddings", "embed_positions")  # GPT-2's, BERT's, OPT's
# Buffers that BERT-style embeddings keep for every row of the table.
_BUFFERS: dict[str, Callable[[int], Tensor]] = {
    "position_ids": torch.arange,
    "token_type_ids": lambda rows: torch.zeros(rows).long(),
}


class LearnedPositions:
    """All tables of learned positions of a network; false if it has none."""

    def __init__(self, network: PreTrainedModel) -> None:
        self.network, self.body = network, language_body(network)
        self._evidence: dict[str, Any] | None = None
        tables = self._tables()
        self.first = _first_number(*tables[0]) if tables else 0  # the `position_id` of position 0
        offset = getattr(tables[0][1], "offset", 0) if tables else 0
        self._reserved = self.first or offset  # rows before that of position 0

    def __bool__(self) -> bool:
        return bool(self._tables())

    @property
    def length(self) -> int:
        """Return the number of positions in the table."""
        return self._tables()[0][1].num_embeddings - self._reserved

    def set(self, table: Table, original_length: int, length: int) -> dict[str, Any]:
        """Extend the table once, since its rows are then trained; return the evidence of the first call every time."""
        if self._evidence is None:
            expected = table.extended(self._rows().double(), length)
            if length > self.length:
                self._replace(expected)
            lengths = {"original_length": original_length, "length": self.length}
            self._evidence = {"table": lengths | {"row_error": self._row_error(expected, original_length, table.word)}}
        assert length <= self.length, "the first call must name the longest length"
        return self._evidence

    def _replace(self, rows: Float[Tensor, "length dim"]) -> None:
        length, before, config = len(rows), self.length + self._reserved, language_config(self.network)
        unstated, created = before - config.max_position_embeddings, described(self.network)  # reserved rows that it does not count
        tables = self._tables()
        # A table that is shared, as a module or as a weight, stays shared.
        longer = {module.weight: self._longer(module.weight, rows) for _, module in tables}
        for module, weight in [(module, longer[module.weight]) for _, module in tables]:
            module.weight, module.num_embeddings = weight, length + self._reserved
        for parent, _ in tables:
            for name, make in _BUFFERS.items():
                if (buffer := parent._buffers.get(name)) is not None and buffer.shape[-1] == before:
                    parent._buffers[name] = make(length + self._reserved)[None].to(buffer.device)
        config.max_position_embeddings = length + self._reserved - unstated
        recreate(self.network, created)

    def _longer(self, old: nn.Parameter, rows: Float[Tensor, "length dim"]) -> nn.Parameter:
        reserved = old.detach()[: self._reserved]
        return nn.Parameter(torch.cat([reserved, rows.to(old.dtype)]), requires_grad=old.requires_grad)

    def _rows(self) -> Float[Tensor, "length dim"]:
        return self._tables()[0][1].weight.detach()[self._reserved :]

    def _row_error(self, expected: Float[Tensor, "length dim"], original_length: int, word: str) -> float:
        """Return how far the table, and the rows that the network looks up in it, are from the closed form.

        Raises `AssertionError` if that is more than rounding.
        """
        error, last = (self._rows().double() - expected).abs().max(), len(expected) - 1
        # The first, the first new and the last position: a network that ignores the new rows is detected.
        places = torch.tensor(sorted({0, min(original_length, last), last}), device=expected.device)
        for found in self._looked_up(places):
            error = torch.maximum(error, (found.double() - expected[places]).abs().max())
        if error > torch.finfo(self._rows().dtype).eps * expected.abs().max():
            raise AssertionError(f"{word} is not active: rows differ by {error:.1e}")
        return float(error)

    def _looked_up(self, positions: Tensor) -> list[Tensor]:
        """Return the rows that every table looks up for tokens at these positions."""
        found: list[Tensor] = []

        def remember(module: nn.Module, inputs: object, rows: Tensor) -> None:
            found.append(rows[0, : len(positions)])  # Longformer appends padding

        hooks = [module.register_forward_hook(remember) for _, module in self._tables()]
        numbers = positions[None] + self.first
        narrow = has_narrow_weights(self.network)
        with torch.no_grad(), torch.autocast(positions.device.type, torch.bfloat16, enabled=narrow):
            self.body(input_ids=torch.zeros_like(numbers), position_ids=numbers, use_cache=False)
        for hook in hooks:
            hook.remove()
        return found

    def switch_off(self, length: int) -> None:
        """Set all rows, at least `length` of them, to zero for good: they are not trained either."""
        if length > self.length:
            self._replace(self._rows().new_zeros(length, self._rows().shape[1]))
        for _, module in self._tables():
            module.weight.requires_grad_(False)
            module.weight.data = torch.zeros_like(module.weight)  # a teacher may share the memory of the old rows

    def _tables(self) -> list[tuple[nn.Module, nn.Embedding]]:
        """Return (parent, table) of every table of positions."""
        return [
            (parent, module)
            for parent in language_part(self.network).modules()
            for name, module in parent.named_children()
            if name in _NAMES and isinstance(module, nn.Embedding)
            # RoFormer's `embed_positions` are computed; they have no offset.
            if name != "embed_positions" or hasattr(module, "offset")
        ]


def unknown_table(network: PreTrainedModel) -> nn.Module | None:
    """Return a table of positions that is not an ordinary embedding, such as I-BERT's, which is quantized; None: there is none."""
    modules = language_part(network).named_modules()
    tables = (module for name, module in modules if name.rpartition(".")[2] in _NAMES and not isinstance(module, nn.Embedding))
    return next((table for table in tables if "weight" in table._parameters), None)


def _first_number(parent: nn.Module, table: nn.Embedding) -> int:
    if table.padding_idx is not None:
        return table.padding_idx + 1
    # MRA and Nyströmformer have no row for padding and count from 2.
    numbers = parent._buffers.get("position_ids")
    # Fresh models count from 0; they are also built without weights.
    return 0 if numbers is None or numbers.is_meta else int(numbers.flatten()[0])
