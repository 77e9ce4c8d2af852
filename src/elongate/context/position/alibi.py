"""ALiBi (Press et al. 2021, arXiv:2108.12409, section 3): no positions; a bias of -slope * distance on every score.

With H heads, H a power of two, the slopes are 2^(-8k/H), k = 1 … H. For other H the authors' code uses the slopes
of the largest power of two below H, followed by every second slope of the next power of two, starting with its
first; this module does the same. The authors' model is causal; in a bidirectional model the distance |i - j| counts
on both sides.

The model's own positions are switched off: rotary embeddings do not rotate, and a learned table is zero and stays
zero. The model should therefore be trained with ALiBi from the start (its base is). A checkpoint that was trained
with other positions loses them and needs long training. Fails for far tokens: a head of slope s hardly sees beyond
about 10 / s tokens, and the flattest slope is 1/256.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.position import Position, Positioned


@dataclass(frozen=True, kw_only=True)
class Alibi(Position):
    """A bias on attention scores in place of positions."""

    word: ClassVar[str] = "alibi"
    is_plain: ClassVar[bool] = False
    from_the_start: ClassVar[bool] = True
    removes: ClassVar[frozenset[str]] = frozenset({"rotary", "learned_positions"})

    def needs(self, factor: float) -> frozenset[str]:
        return frozenset({"regions"})

    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        return {"position": self.word, "slopes": model.set_slopes(self.slopes, length)}

    def slopes(self, num_heads: int) -> Float[np.ndarray, " heads"]:
        """Amount that one token of distance subtracts from the scores of each head."""
        power = 2 ** math.floor(math.log2(num_heads))
        return np.concatenate([_geometric(power), _geometric(2 * power)[::2][: num_heads - power]])


def _geometric(num_heads: int) -> Float[np.ndarray, " heads"]:
    return 2.0 ** (-8 * np.arange(1, num_heads + 1) / num_heads)
