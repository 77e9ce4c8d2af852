"""A table of learned positions, stretched by linear interpolation.

The one-dimensional form of the method with which Vision Transformers read images larger than the trained ones
(Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.2; there in two dimensions). It follows no paper on text; the
same idea for rotary positions is position interpolation (arXiv:2306.15595). New row j is the old table at j ·
original/length.

New rows beyond the last old row repeat it, so every row is a mean of trained rows. Extrapolating the last step
instead would amplify the noise between two single rows, the least trained of the table. Fails without training:
neighbouring tokens are now less than one row apart, so a head that attends to the previous token finds several, and
the last few positions are identical at first.
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
    """The table, stretched."""

    word: ClassVar[str] = "interpolate"

    def extended(self, rows: Float[Tensor, "original dim"], length: int) -> Float[Tensor, "length dim"]:
        import torch

        original = len(rows)
        # Integer arithmetic: a new position that falls on an old one gets exactly that row.
        places = torch.arange(length, device=rows.device) * original
        below = places // length
        above = (below + 1).clamp(max=original - 1)
        share = (places % length).to(rows.dtype) / length
        return torch.lerp(rows[below], rows[above], share[:, None])
