"""Dynamic NTK (emozilla 2023; Peng et al. 2023, arXiv:2309.00071, section 3.3; transformers' `dynamic`).

The base grows with the text: theta' = theta · (s·n/L - (s - 1))^(d/(d - 2)) for n > L tokens; up to the original
length L it is unchanged. A text of n tokens has one base for all its positions, so cached keys never need to be
rotated again: the base is set for the whole text before it is read, also if it is read in chunks. Plain
transformers derives the base from the longest text read so far and keeps the keys cached for a shorter one; there,
pass a text in one call. transformers also divides by `max_position_embeddings`, which therefore stays L in the
exported configuration.
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
class DynamicNtk(Scaling):
    """NTK-aware scaling whose base follows the length of the text."""

    scale: float | None = None  # s, at least 1; null: target/original length; 1: the base of `ntk` with alpha = n/L

    word: ClassVar[str] = "dynamic_ntk"
    follows_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.scale is None or self.scale >= 1,
            "scale",
            self.scale,
            "must be at least 1",
            "use {key}=null for target/original",
        )

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return self.read_frequencies(rotary, factor, round(factor * rotary.original_length))

    def read_frequencies(self, rotary: Rotary, factor: float, length: int) -> Float[np.ndarray, " half"]:
        scale, excess = self.scale or factor, max(length / rotary.original_length - 1, 0)
        theta = rotary.theta * (1 + scale * excess) ** (rotary.dim / (rotary.dim - 2))
        return Rotary(rotary.dim, theta, rotary.original_length).frequencies()

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "dynamic", "rope_theta": rotary.theta, "factor": self.scale or factor}

    def stated_length(self, original_length: int, length: int) -> int:
        return original_length
