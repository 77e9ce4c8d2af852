"""The rotary embedding of a model before any extension (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Rotary:
    """What a position needs to know about the rotary embedding that the model was trained with."""

    dim: int  # rotated dimensions of a head, even
    theta: float
    original_length: int

    def frequencies(self) -> Float[np.ndarray, " half"]:
        """Radians per token of each pair of dimensions, fastest first."""
        return self.theta ** -(np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
