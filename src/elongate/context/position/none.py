"""No change: the frequencies that the model was trained with, also past the trained length. The control of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.scaling import Rotary, Scaling


@dataclass(frozen=True, kw_only=True)
class Unchanged(Scaling):
    word: ClassVar[str] = "none"
    changes_model: ClassVar[bool] = False

    def needs(self, factor: float) -> frozenset[str]:
        # A looked-up table of positions has no row past its end; computed positions go on.
        return frozenset({"computed_positions"}) if factor > 1 else frozenset()

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return rotary.frequencies()

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": rotary.theta}
