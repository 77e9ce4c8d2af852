"""No change: the trained frequencies are kept, also past the trained length. The control of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.position import Positioned
from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Unchanged(Scaling):
    """The trained positions; acts on every model whose positions are computed."""

    word: ClassVar[str] = "none"
    changes_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.layers == "full", "layers", self.layers, "has no effect: none changes no layer", "use {key}=full")

    def needs(self, factor: float) -> frozenset[str]:
        # A learned table has no rows past its end; computed positions can be extrapolated.
        return frozenset({"computed_positions"}) if factor > 1 else frozenset()

    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        return super().act(model, original_length, length) if model.rotary else {}

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return rotary.frequencies()

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": rotary.theta}
