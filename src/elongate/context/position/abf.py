"""Adjusted base frequency (Xiong et al. 2023, arXiv:2309.16039, section 4.1).

Only theta changes. If theta is too small, the far end of the context fails without any error: ProLong measured that
the value of the NTK rule is not enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class AdjustedBase(Scaling):
    """RoPE with a larger base."""

    theta: float = 500_000.0  # new base, above the model's own

    word: ClassVar[str] = "abf"
    is_identity_at_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.theta > 1, "theta", self.theta, "must be above 1", "use {key}=500000")

    def check(self, rotary: Rotary, factor: float) -> None:
        if self.theta <= rotary.theta:
            rule = f"must be above the model's own theta of {rotary.theta:g}, or it extends nothing"
            raise ConfigError("context.position.theta", f"{self.theta:g}", rule, f"use {{key}}={rotary.theta * factor**2:g}")

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return Rotary(rotary.dim, self.theta, rotary.original_length).frequencies()

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.theta}
