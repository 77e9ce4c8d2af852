"""DroPE (Gelberg et al. 2025, arXiv:2512.12167): rotary positions are dropped after pretraining.

A causal mask alone tells a model where a token is, once it is recalibrated: a short training without positions at the original length
(context/curriculum=recalibrate; published: 0.5% to 2% of the tokens of pretraining, a learning rate like that of pretraining). Longer texts
are then read without training on any. Two parts of the released code are left out: normalized queries and keys, which make another
architecture, and a softmax scale for long texts, fitted to each model. Untrained, the model is broken at every length.

No rotation is position interpolation by a factor so large that no angle differs from 0 in float32 or float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.scaling import Rotary, Scaling

# At 10^8 tokens the fastest angle is 10^-19; the slowest pairs of theta 10^10 are still normal numbers of float32.
_SLOWED = 1e27


@dataclass(frozen=True, kw_only=True)
class Dropped(Scaling):
    word: ClassVar[str] = "drope"
    is_identity_at_one: ClassVar[bool] = False
    removes: ClassVar[frozenset[str]] = frozenset({"rotary"})

    def needs(self, factor: float) -> frozenset[str]:
        # Without a causal mask, a model without positions sees a bag of words.
        return frozenset({"rotary", "causal"})

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return rotary.frequencies() / _SLOWED

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "linear", "rope_theta": rotary.theta, "factor": _SLOWED}
