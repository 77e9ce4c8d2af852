"""Learned positions: a table with one row per position, made longer."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from elongate.context.position.position import Position, Positioned

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Table(Position):
    """A position that computes a longer table from the trained one."""

    def needs(self, factor: float) -> frozenset[str]:
        return frozenset({"learned_positions"})

    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        return model.learned.set(self, original_length, length)

    @abstractmethod
    def extended(self, rows: Float[Tensor, "original dim"], length: int) -> Float[Tensor, "length dim"]:
        """The table for `length` positions, computed from the trained rows."""
