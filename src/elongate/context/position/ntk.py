"""NTK-aware scaling (bloc97 2023; described in Peng et al. 2023, arXiv:2309.00071, section 3.1).

The base grows so that the slowest pair is interpolated by exactly the factor and the fastest not at all.
transformers has no rope_type for it, but it equals a change of theta. Degrades gradually past the target: the pairs
between the fastest and the slowest are extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class NtkAware(Scaling):
    """RoPE with a base that grows with the factor."""

    alpha: float | None = None  # factor of interpolation of the slowest pair, above 1; null: target/original length

    word: ClassVar[str] = "ntk"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.alpha is None or self.alpha > 1,
            "alpha",
            self.alpha,
            "must be above 1",
            "use {key}=null for target/original",
        )

    def theta(self, rotary: Rotary, factor: float) -> float:
        """The new base."""
        return rotary.theta * (self.alpha or factor) ** (rotary.dim / (rotary.dim - 2))

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return Rotary(rotary.dim, self.theta(rotary, factor), rotary.original_length).frequencies()

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.theta(rotary, factor)}
