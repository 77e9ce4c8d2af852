"""A table of learned positions, stretched by linear interpolation.

The one-dimensional form of what Vision Transformers do to read images larger than those that they were trained on (Dosovitskiy et al.
2020, arXiv:2010.11929, section 3.2; there in two dimensions). No paper on text is followed: for rotary positions the same thought is
position interpolation (arXiv:2306.15595). New row j is the old table at position j · original/length.

The last rows lie beyond the last old one and hold it. Every row is then a mean of trained ones; to go on along the last step would
magnify the noise between two single rows, the least trained of the table. Fails without training: neighbours were one row apart and are
now a part of that, so what attends to "the token before" finds several; and the very last positions are alike at first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.context.position.table import Table

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Interpolate(Table):
    word: ClassVar[str] = "interpolate"

    def extended(self, rows: Float[Tensor, "original dim"], length: int) -> Float[Tensor, "length dim"]:
        import torch

        original = len(rows)
        # In whole numbers: where a new position falls on an old one, it is that row to the last bit.
        places = torch.arange(length, device=rows.device) * original
        below = places // length
        above = (below + 1).clamp(max=original - 1)
        share = (places % length).to(rows.dtype) / length
        return torch.lerp(rows[below], rows[above], share[:, None])
