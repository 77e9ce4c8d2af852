"""Position interpolation (Chen et al. 2023, arXiv:2306.15595, eq. 3).

Every position is divided by the factor, so none is beyond what was trained. Needs training: the resolution of near positions shrinks too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.scaling import Rotary, Scaling


@dataclass(frozen=True, kw_only=True)
class PositionInterpolation(Scaling):
    word: ClassVar[str] = "pi"

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return rotary.frequencies() / factor

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "linear", "rope_theta": rotary.theta, "factor": factor}
