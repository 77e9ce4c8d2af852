"""YaRN (Peng et al. 2023, arXiv:2309.00071, sections 3.2 to 3.4).

Pairs that turn more than `beta_fast` times within the original length keep their frequency, pairs that turn less
than `beta_slow` times are interpolated by the factor, and pairs in between are blended. Queries and keys are
multiplied by 0.1 ln(factor) + 1, which sharpens attention. Past the target the interpolated pairs meet untrained
angles, and the loss rises again.

The authors' code rounds the range of blended pairs outwards to whole pairs. gpt-oss was released without rounding
(`truncate` false in its configuration). DeepSeek-V2 (arXiv:2405.04434) and later models multiply queries and keys by
(0.1 m ln(factor) + 1) / (0.1 a ln(factor) + 1), with m = `mscale` and a = `mscale_all_dim`. Their attention also
multiplies its scores by the square of the denominator; other networks do not, and with m = a their scores keep their
scale.
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
class Yarn(Scaling):
    """Interpolation by the number of turns, with sharper attention."""

    beta_fast: float = 32.0  # turns within the original length, above beta_slow
    beta_slow: float = 1.0  # turns within the original length, above 0
    truncate: bool = True  # whether the range of blended pairs is rounded outwards to whole pairs
    mscale: float = 1.0  # times 0.1 ln(factor): how much queries and keys grow with the factor, at least 0
    mscale_all_dim: float = 0.0  # likewise, in the denominator, at least 0; 0: divides by 1

    word: ClassVar[str] = "yarn"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta_slow > 0, "beta_slow", self.beta_slow, "must be above 0", "use {key}=1")
        rule = f"must be above beta_slow={self.beta_slow:g}"
        require(self.beta_fast > self.beta_slow, "beta_fast", self.beta_fast, rule, "use {key}=32")
        for key, default in (("mscale", 1), ("mscale_all_dim", 0)):
            value = getattr(self, key)
            require(0 <= value < math.inf, key, value, "must be a finite number, at least 0", f"use {{key}}={default}")

    def interpolated(self, rotary: Rotary) -> Float[np.ndarray, " half"]:
        """Share of interpolation of each pair: 0 keeps its frequency, 1 divides it by the factor."""

        def pair_of(turns: float) -> float:
            return rotary.dim * math.log(rotary.original_length / (2 * math.pi * turns)) / (2 * math.log(rotary.theta))

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotary.dim - 1)
        # The 0.001 is the guard of the authors' code against a ramp of zero width.
        width = high - low if high != low else 0.001
        return np.clip((np.arange(rotary.dim // 2) - low) / width, 0, 1)

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        plain, share = rotary.frequencies(), self.interpolated(rotary)
        return plain / factor * share + plain * (1 - share)

    def attention_factor(self, rotary: Rotary, factor: float) -> float:
        grown, divisor = (0.1 * scale * math.log(factor) + 1 for scale in (self.mscale, self.mscale_all_dim))
        return grown / divisor

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {
            "rope_type": "yarn",
            "rope_theta": rotary.theta,
            "factor": factor,
            "original_max_position_embeddings": rotary.original_length,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            # In place of mscale and mscale_all_dim, which transformers ignores if one of them is 0.
            "attention_factor": self.attention_factor(rotary, factor),
            # Left out if true, which is what readers without this key do.
            **({} if self.truncate else {"truncate": False}),
        }
