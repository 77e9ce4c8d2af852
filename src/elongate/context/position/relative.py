"""A scaling on top of the frequencies that a model already has: `context.from=current`.

Every pair is slowed by the same factor by which the scaling would slow it in a plain model of the same theta that was
trained on the model's present length: f = f_present · f_scaled / f_plain. Attention factors multiply. Plain
transformers expresses it as `longrope`, whose lists of factors can describe any frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling


@dataclass(frozen=True, kw_only=True)
class Relative(Scaling):
    """`scaling` applied to present frequencies; `rotary` is the plain embedding at the model's present length."""

    scaling: Scaling
    present: tuple[float, ...]  # radians per token of each pair, before the scaling
    present_attention_factor: float

    word: ClassVar[str] = "relative"  # never chosen; messages name the scaling

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return self._slowed(rotary, self.scaling.frequencies(rotary, factor))

    def read_frequencies(self, rotary: Rotary, factor: float, length: int) -> Float[np.ndarray, " half"]:
        return self._slowed(rotary, self.scaling.read_frequencies(rotary, factor, length))

    def attention_factor(self, rotary: Rotary, factor: float) -> float:
        return self.present_attention_factor * self.scaling.attention_factor(rotary, factor)

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return as_lists(self, rotary, factor)

    def _slowed(self, rotary: Rotary, scaled: Float[np.ndarray, " half"]) -> Float[np.ndarray, " half"]:
        return np.array(self.present) * scaled / rotary.frequencies()


def as_proportional(scaling: Scaling, rotary: Rotary, factor: float, share: float) -> dict[str, Any] | None:
    """The `rope_parameters` of transformers' `proportional`, in which `share` of the pairs rotates.

    It has a base and one factor for all pairs. Returns None for a scaling that needs more.
    """
    rotating = scaling.frequencies(rotary, factor)[: int(share * rotary.dim // 2)]
    slower = rotating[0] / rotating
    theta = slower[-1] ** (rotary.dim / (2 * (len(slower) - 1))) if len(slower) > 1 else rotary.theta
    is_geometric = np.allclose(theta ** (2 * np.arange(len(slower)) / rotary.dim), slower, rtol=1e-6, atol=0)
    if scaling.follows_text or scaling.attention_factor(rotary, factor) != 1 or not is_geometric:
        return None
    return {"rope_type": "proportional", "rope_theta": float(theta), "partial_rotary_factor": share, "factor": float(1 / rotating[0])}


def as_lists(scaling: Scaling, rotary: Rotary, factor: float) -> dict[str, Any]:
    """The `rope_parameters` of any scaling with one set of frequencies, or one for short and one for long texts."""
    assert not scaling.follows_text, "refused before"
    lengths = (rotary.original_length, rotary.original_length + 1)
    plain = rotary.frequencies()
    # A pair that does not rotate gets a factor by which all its angles are 0 in float32.
    short, long = (plain / np.maximum(scaling.read_frequencies(rotary, factor, length), 1e-27 * plain) for length in lengths)
    attention_factor = scaling.attention_factor(rotary, factor)
    return {
        "rope_type": "longrope",
        "rope_theta": rotary.theta,
        "factor": factor,
        "original_max_position_embeddings": rotary.original_length,
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "attention_factor": attention_factor,
        # vLLM reads these two instead of attention_factor.
        "short_mscale": attention_factor,
        "long_mscale": attention_factor,
    }
