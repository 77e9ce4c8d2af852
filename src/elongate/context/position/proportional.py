"""p-RoPE (Barbero et al. 2024, arXiv:2410.06205, section 6): only the fastest share of the pairs rotates.

The slowest pairs carry what does not depend on the distance. Past the original length their angles are untrained, and
without rotation there are none. The other pairs keep their frequencies. A model that was trained with all pairs must
be trained further with the new ones. Past the target the slowest pairs that still rotate may meet untrained angles.
Gemma 4 was released with a share of 0.25 in its layers that see the whole text.

Plain transformers expresses it as `longrope`, with factors by which the other angles are 0 in float32: its own
`proportional` does not fit every architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.relative import as_lists
from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class Proportional(Scaling):
    """Rotation of the fastest pairs only."""

    share: float = 0.75  # of the pairs that rotate, above 0 and below 1; rounded down to whole pairs

    word: ClassVar[str] = "proportional"
    is_identity_at_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.share < 1, "share", self.share, "must be above 0 and below 1", "use {key}=0.75, or context/position=none")

    def check(self, rotary: Rotary, factor: float) -> None:
        if self.rotating(rotary) == 0:
            rule = f"leaves none of the {rotary.dim // 2} pairs that the model rotates"
            raise ConfigError("context.position.share", self.share, rule, f"use {{key}}={2 / rotary.dim:g} or more, or context=drope")

    def rotating(self, rotary: Rotary) -> int:
        """Number of pairs that rotate."""
        return int(self.share * rotary.dim / 2)

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return np.where(np.arange(rotary.dim // 2) < self.rotating(rotary), rotary.frequencies(), 0.0)

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return as_lists(self, rotary, factor)
