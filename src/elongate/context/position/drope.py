"""DroPE (Gelberg et al. 2025, arXiv:2512.12167): rotary positions are dropped after pretraining.

A causal mask alone is enough for a model to locate tokens, after a short recalibration: training without positions
at the original length (context/curriculum=recalibrate; the paper: 0.5% to 2% of the tokens of pretraining, at a
learning rate like that of pretraining). The model then reads longer texts without having been trained on any. Two
parts of the released code are left out: normalized queries and keys, which change the architecture, and a softmax
scale for long texts, which is fitted to each model. Without recalibration the model is broken at every length.

"No rotation" is expressed as position interpolation by a factor so large that every angle equals 0 in float32 and
float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling

# At 1e8 tokens the fastest angle is 1e-19; with theta 1e10 the slowest frequencies are still normal float32 numbers.
_SLOWED = 1e27


@dataclass(frozen=True, kw_only=True)
class Dropped(Scaling):
    """Rotary embeddings that do not rotate."""

    word: ClassVar[str] = "drope"
    is_identity_at_one: ClassVar[bool] = False
    removes: ClassVar[frozenset[str]] = frozenset({"rotary"})

    def needs(self, factor: float) -> frozenset[str]:
        # A bidirectional model without positions sees a bag of words.
        return frozenset({"rotary", "causal"})

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return rotary.frequencies() / _SLOWED

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "linear", "rope_theta": rotary.theta, "factor": _SLOWED}
