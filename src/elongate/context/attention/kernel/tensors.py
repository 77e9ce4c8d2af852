"""The tensors of one block of the score matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Queries = Float[Tensor, "batch heads queries dim"]
Keys = Float[Tensor, "batch kv_heads keys dim"]
Values = Float[Tensor, "batch kv_heads keys value_dim"]  # as wide as the keys, except in latent attention
Outputs = Float[Tensor, "batch heads queries value_dim"]
LogSumExp = Float[Tensor, "batch heads queries"]


@dataclass(frozen=True)
class Bias:
    """Subtracted from a block's scores: the slope of the head times the distance of the key from a reference key.

    It does not depend on the query, so it is one row of numbers per head.
    """

    slopes: Float[Tensor, " heads"]
    distances: Int[Tensor, "#batch keys"]  # at least 0

    def rows(self, dtype: torch.dtype) -> Float[Tensor, "#batch heads 1 keys"]:
        """The numbers to add to the scores, in the given precision, at least float32."""
        return (-self.slopes[:, None, None] * self.distances[:, None, None]).to(torch.promote_types(dtype, torch.float32))

    def flipped(self) -> Bias:
        """The bias of the keys in reverse order."""
        return replace(self, distances=self.distances.flip(1))
