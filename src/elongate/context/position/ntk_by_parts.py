"""NTK by parts (bloc97 2023; arXiv:2309.00071, section 3.2, definition 2): YaRN without its attention factor.

A pair that turns r times within the original length keeps its frequency for r > beta, is interpolated by the factor
for r < alpha, and is blended linearly in r in between. That is the paper's ramp; the authors' YaRN code uses a ramp
over the index of the pair instead, and their older code for this method (betas 1.25 and 0.75, gammas 16 and 2) also
blends with NTK-aware frequencies. Llama 3.1's scaling is the same method with beta 4, so transformers can express
it. Fails past the target like YaRN: interpolated pairs meet angles that were never trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.llama3 import Llama3
from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.errors import require


@dataclass(frozen=True, kw_only=True)
class NtkByParts(Scaling):
    """Interpolation by the number of turns within the original length."""

    alpha: float = 1.0  # turns within the original length below which a pair is interpolated, above 0
    beta: float = 32.0  # turns above which it is unchanged, above alpha

    word: ClassVar[str] = "ntk_by_parts"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha > 0, "alpha", self.alpha, "must be above 0", "use {key}=1")
        require(self.beta > self.alpha, "beta", self.beta, f"must be above alpha={self.alpha:g}", "use {key}=32")

    @property
    def _bands(self) -> Llama3:
        return Llama3(low_frequency_factor=self.alpha, high_frequency_factor=self.beta)

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return self._bands.frequencies(rotary, factor)

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return self._bands.rope_parameters(rotary, factor)
