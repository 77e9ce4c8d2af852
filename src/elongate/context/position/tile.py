"""A table of learned positions, repeated (Beltagy et al. 2020, arXiv:2004.05150, section 5: "copying").

Longformer starts the 4096 positions of its model from RoBERTa's 512, copied eight times: what attends to near tokens finds them as before,
everywhere but where two copies meet. Fails for what depends on far tokens: two positions that lie a multiple of the original length apart
cannot be told from each other until training has parted them.
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
    word: ClassVar[str] = "tile"

    def check_length(self, length: int, original_length: int) -> None:
        rule = f"must be a multiple of the original length of {original_length}: context/position=tile repeats the table"
        nearest = max(2, round(length / original_length)) * original_length
        require(length % original_length == 0, "context.target_length", length, rule, f"use {{key}}={nearest}")

    def extended(self, rows: Float[Tensor, "original dim"], length: int) -> Float[Tensor, "length dim"]:
        return rows.repeat(length // len(rows), 1)
