"""NTK-aware scaling (bloc97 2023; written down in Peng et al. 2023, arXiv:2309.00071, section 3.1).

The base grows so that the slowest pair is interpolated by exactly the factor and the fastest not at all. transformers has no
rope_type for it: it is expressed, exactly, as a change of theta. Fails gently past the target: pairs in between are extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.scaling import Rotary, Scaling
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class NtkAware(Scaling):
    alpha: float | None = None  # how far the slowest pair is interpolated, above 1; null: target_length / original_length

    word: ClassVar[str] = "ntk"

    def __post_init__(self) -> None:
        require(self.alpha is None or self.alpha > 1, "alpha", self.alpha, "must be above 1", "use {key}=null for target/original")

    def theta(self, rotary: Rotary, factor: float) -> float:
        return rotary.theta * (self.alpha or factor) ** (rotary.dim / (rotary.dim - 2))

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return Rotary(rotary.dim, self.theta(rotary, factor), rotary.original_length).frequencies()

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.theta(rotary, factor)}
