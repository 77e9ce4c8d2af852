"""A table of learned positions, repeated (Beltagy et al. 2020, arXiv:2004.05150, section 5: "copying").

Longformer initializes its 4096 positions with RoBERTa's 512, copied eight times: a head that attends to near tokens
finds them as before, except where two copies meet. Fails for far tokens: two positions whose distance is a multiple
of the original length cannot be distinguished until training has separated them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.context.position.table import Table
from elongate.errors import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Tile(Table):
    """The table, repeated."""

    word: ClassVar[str] = "tile"

    def check_length(self, length: int, original_length: int) -> None:
        rule = f"must be a multiple of the original length of {original_length}: context/position=tile repeats the table"
        nearest = max(2, round(length / original_length)) * original_length
        require(length % original_length == 0, "context.target_length", length, rule, f"use {{key}}={nearest}")

    def extended(self, rows: Float[Tensor, "original dim"], length: int) -> Float[Tensor, "length dim"]:
        return rows.repeat(length // len(rows), 1)
