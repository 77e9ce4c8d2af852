"""Both directions of a text. Which objective that is depends on the model.

- A causal model learns by Meet in the Middle (meet_in_the_middle.py): it predicts each token from the
  tokens before it and, in the reversed text, from the tokens after it. The loss is the mean
  cross-entropy of both directions plus `agreement` times the mean distance between their predictions.
  A step costs two of `causal`.
- The autoencoder reads both sides already. It learns the mixture (mixture.py) of `reconstruction`,
  where the decoder sees both sides, and `continuation`.
- A masked model is refused, because its own objective uses both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.errors import ConfigError, require
from elongate.objectives.meet_in_the_middle import MeetInTheMiddle
from elongate.objectives.mixture import Mixture
from elongate.objectives.objective import Objective, ObjectiveChoice
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Bidirectional(ObjectiveChoice):
    """Chooses by the model: `MeetInTheMiddle` for a causal one, `Mixture` for the autoencoder."""

    agreement: float = 0.1  # weight of the distance between the directions, at least 0; causal models only
    reconstruction_share: float = 0.5  # of the loss, the rest is continuation's, in (0, 1); the autoencoder only

    word: ClassVar[str] = "bidirectional"
    needs: ClassVar[frozenset[str]] = frozenset()  # `check` requires causal or autoencoder
    rows_meet: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.agreement >= 0, "agreement", self.agreement, "must be at least 0", "use {key}=0.1")
        share = self.reconstruction_share
        remedy = "use {key}=0.5, or objective=continuation without reconstruction"
        require(0 < share < 1, "reconstruction_share", share, "must be in (0, 1)", remedy)

    def check(self, has: frozenset[str], model: str) -> None:
        if not has & {"causal", "autoencoder"}:
            rule = f"has no effect on model={model}, whose own objective uses both directions"
            raise ConfigError("objective", self.word, rule, "use {key}=masked")
        key, home = "reconstruction_share", "the autoencoder"
        if "autoencoder" in has:
            key, home = "agreement", "causal models"
        given, default = getattr(self, key), getattr(Bidirectional, key)
        rule = f"has no effect on model={model}: it belongs to {home}"
        require(given == default, f"objective.{key}", given, rule, "remove {key}")

    def bind(self, has: frozenset[str], original_length: int) -> Objective:
        if "autoencoder" in has:
            return Mixture(reconstruction_share=self.reconstruction_share)
        return MeetInTheMiddle(agreement=self.agreement)

    @property
    def scorer(self) -> Scorer:
        """Return the scorer of a causal model; whether text can be written is the same for the autoencoder."""
        return LeftToRight()
