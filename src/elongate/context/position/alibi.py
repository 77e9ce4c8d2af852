"""ALiBi (Press et al. 2021, arXiv:2108.12409, section 3): no positions; a score loses the slope of its head for each token of distance.

With H heads, a power of two, the slopes are 2^(-8k/H), k = 1 … H. For other numbers of heads the authors' code takes those of the
largest power of two below, and then every second one of the next power of two, from its first on; so does this. Their model is causal;
in a bidirectional one the distance |i - j| counts on both sides alike.

The model's own positions are switched off: rotary embeddings turn nothing, a learned table is zero and stays so. So it is for a model
that is trained with it from its base on: a checkpoint that was trained with other positions loses them, and needs long training. Fails
for what lies far off: a head whose slope is s hardly sees beyond some 10 / s tokens, and the flattest has 1/256.
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
    word: ClassVar[str] = "alibi"
    is_plain: ClassVar[bool] = False
    from_the_start: ClassVar[bool] = True
    removes: ClassVar[frozenset[str]] = frozenset({"rotary", "learned_positions"})

    def needs(self, factor: float) -> frozenset[str]:
        return frozenset({"regions"})

    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        return model.set_slopes(self.slopes, original_length, length)

    def slopes(self, num_heads: int) -> Float[np.ndarray, " heads"]:
        """What a token of distance takes off the scores of each head."""
        power = 2 ** math.floor(math.log2(num_heads))
        return np.concatenate([_geometric(power), _geometric(2 * power)[::2][: num_heads - power]])


def _geometric(num_heads: int) -> Float[np.ndarray, " heads"]:
    return 2.0 ** (-8 * np.arange(1, num_heads + 1) / num_heads)
