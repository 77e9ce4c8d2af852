"""How the next token is chosen: the most likely one, or a random one of a distribution that transformers' processors narrow.

Every token has its own random numbers, a function of the seed and its place in the text (Gumbel-max: the token with
the largest log-probability + Gumbel noise is a sample of the distribution). A text therefore depends neither on the texts
that are written with it nor on interruptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from elongate.errors import require

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessorList


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The distribution that tokens are drawn from."""

    temperature: float = 1.0  # divides the logits, at least 0; 0: always the most likely token
    top_p: float = 1.0  # the most likely tokens with this probability together, in (0, 1]
    top_k: int = 0  # so many most likely tokens, at least 0; 0: all
    min_p: float = 0.0  # tokens at least this many times as likely as the most likely one, in [0, 1]
    seed: int = 0  # at least 0

    def __post_init__(self) -> None:
        require(
            self.temperature >= 0, "temperature", self.temperature, "must be at least 0", "use {key}=1.0, or 0 for the most likely token"
        )
        require(0 < self.top_p <= 1, "top_p", self.top_p, "must be in (0, 1]", "use {key}=1.0")
        require(self.top_k >= 0, "top_k", self.top_k, "must be at least 0", "use {key}=0 for all tokens")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "must be in [0, 1]", "use {key}=0.0")
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be at least 0 and below 2^63", "use {key}=0")
        narrowed = [key for key, value in (("top_p", self.top_p < 1), ("top_k", self.top_k > 0), ("min_p", self.min_p > 0)) if value]
        if self.temperature == 0 and narrowed:
            require(
                False, narrowed[0], getattr(self, narrowed[0]), "has no effect with temperature=0", "leave it out, or set temperature=1.0"
            )

    @cached_property
    def _processors(self) -> LogitsProcessorList:
        from transformers import (
            LogitsProcessorList,
            MinPLogitsWarper,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        # In the order of transformers' generate.
        found = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))] if self.temperature != 1 else [])
        found += [TopKLogitsWarper(self.top_k)] if self.top_k else []
        found += [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        found += [MinPLogitsWarper(self.min_p)] if self.min_p else []
        return found

    def choose(self, logits: Float[Tensor, "rows vocab"], place: int) -> Int[Tensor, " rows"]:
        """The next token of each text. `place`: the number of tokens before it."""
        import torch

        if self.temperature == 0:
            return logits.argmax(-1)
        scores = self._processors(torch.empty(len(logits), 0, dtype=torch.long), logits.float()).log_softmax(-1)
        noise = np.random.Generator(np.random.Philox(key=[self.seed, place])).gumbel(size=tuple(scores.shape))
        return (scores.double() + torch.from_numpy(noise).to(scores.device)).argmax(-1)
