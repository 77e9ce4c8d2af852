"""The scaling of Llama 3.1 (Dubey et al. 2024, arXiv:2407.21783; the formula is that of Meta's released code).

Pairs whose wavelength is below original/high_frequency_factor keep their frequency, pairs above
original/low_frequency_factor are interpolated by the factor, and pairs in between are blended linearly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class Llama3(Scaling):
    """Interpolation by wavelength, in three bands."""

    low_frequency_factor: float = 1.0  # turns within the original length below which a pair is interpolated, above 0
    high_frequency_factor: float = 4.0  # turns above which it is unchanged, above low_frequency_factor

    word: ClassVar[str] = "llama3"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.low_frequency_factor, self.high_frequency_factor
        require(low > 0, "low_frequency_factor", low, "must be above 0", "use {key}=1")
        require(high > low, "high_frequency_factor", high, f"must be above low_frequency_factor={low:g}", "use {key}=4")

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        plain = rotary.frequencies()
        turns = rotary.original_length * plain / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)  # share of the trained frequency
        return (1 - kept) * plain / factor + kept * plain

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {
            "rope_type": "llama3",
            "rope_theta": rotary.theta,
            "factor": factor,
            "original_max_position_embeddings": rotary.original_length,
            "low_freq_factor": self.low_frequency_factor,
            "high_freq_factor": self.high_frequency_factor,
        }
