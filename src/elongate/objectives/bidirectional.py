"""Both directions of a text. What that means depends on the model.

A causal model: Meet in the Middle (Nguyen et al. 2023, arXiv:2303.07295, section 3.1). The same weights tell each token from what comes
before it and, of the text turned round, from what comes after it, and the two are drawn together by the total variation distance of their
distributions, through which the gradient goes to both. The loss, which is what is logged, is the mean cross-entropy over the tokens of both
directions plus `agreement` times the mean distance over the tokens that both tell. The paper adds the cross-entropies of the directions up
(as far as we know it: its text was not at hand), so our weight is half of its β. It tells the directions apart by a sentinel token before
the text. Here there is none, so that the model that comes out reads plain text as it did before: the first tokens of a text have to tell. A
step costs two of `causal`.

The autoencoder has both directions by itself: the mixture of `reconstruction`, where the decoder sees both sides, and `continuation`.
A masked model is refused: its objective uses both sides already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from elongate.errors import ConfigError, require
from elongate.objectives.causal import next_token
from elongate.objectives.objective import Example, Objective
from elongate.objectives.reading import LeftToRight, Reading

if TYPE_CHECKING:
    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel

_ELSEWHERE = "has no meaning on model={}: it belongs to {}"


@dataclass(frozen=True, kw_only=True)
class Bidirectional(Objective):
    agreement: float = 0.1  # weight of the distance beside the cross-entropy, at least 0; causal models only
    reconstruction_share: float = 0.5  # of the loss, the rest is continuation's, in (0, 1); the autoencoder only

    word: ClassVar[str] = "bidirectional"
    needs: ClassVar[frozenset[str]] = frozenset()  # causal or autoencoder: told by `check`
    rows_meet: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.agreement >= 0, "agreement", self.agreement, "must be at least 0", "use {key}=0.1")
        share = self.reconstruction_share
        require(0 < share < 1, "reconstruction_share", share, "must be in (0, 1)", "use {key}=0.5, or objective=continuation for one alone")

    def check(self, has: frozenset[str], model: str) -> None:
        if not has & {"causal", "autoencoder"}:
            raise ConfigError("objective", self.word, f"is nothing new to model={model}, which uses both directions", "use {key}=masked")
        key, home = ("agreement", "causal models") if "autoencoder" in has else ("reconstruction_share", "the autoencoder")
        own, default = getattr(self, key), getattr(Bidirectional, key)
        require(own == default, f"objective.{key}", own, _ELSEWHERE.format(model, home), "leave {key} out")

    def on(self, has: frozenset[str], original_length: int) -> Objective:
        return Mixture(reconstruction_share=self.reconstruction_share) if "autoencoder" in has else self

    @property
    def reading(self) -> Reading:
        return LeftToRight()

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        from elongate.objectives.agreement import told_twice

        forward = next_token(batch)
        inputs, targets = (torch.from_numpy(batch.tokens[:, ::-1].copy())[:, part] for part in (slice(None, -1), slice(1, None)))
        positions = None
        if batch.positions is not None and batch.starts is not None:
            positions = torch.from_numpy(turned_positions(batch.positions, batch.starts))
        # A token is told from the one after it wherever that is told from it.
        backward = replace(forward, inputs=inputs, targets=targets, scored=forward.scored.flip(1), positions=positions)
        pairs = _paired(forward, backward)
        met = int(told_twice(pairs.scored).sum())
        return [replace(pairs, agreement=self.agreement * pairs.weight / max(1, met))]


@dataclass(frozen=True, kw_only=True)
class Mixture(Objective):
    """What `bidirectional` is on the autoencoder."""

    reconstruction_share: float

    word: ClassVar[str] = Bidirectional.word
    needs: ClassVar[frozenset[str]] = frozenset({"autoencoder"})
    masks: ClassVar[bool] = True

    @property
    def _parts(self) -> tuple[tuple[Objective, float], ...]:
        from elongate.objectives.continuation import Continuation
        from elongate.objectives.reconstruction import Reconstruction

        return (Reconstruction(), self.reconstruction_share), (Continuation(), 1 - self.reconstruction_share)

    @property
    def reading(self) -> Reading:
        return self._parts[1][0].reading

    def check_length(self, length: int, original_length: int) -> None:
        for objective, _ in self._parts:
            objective.check_length(length, original_length)

    def check_blocks(self, length: int, original_length: int, block_length: int) -> None:
        for objective, _ in self._parts:
            objective.check_blocks(length, original_length, block_length)

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        return [
            replace(example, share=share * example.share)
            for objective, share in self._parts
            for example in objective.examples(batch, model)
        ]


def turned_positions(
    positions: Int[np.ndarray, "rows length"], starts: Bool[np.ndarray, "rows length+1"]
) -> Int[np.ndarray, "rows length"]:
    """Those of the text read from its end: the distances within a document stay, and each is counted from its last token."""
    # The last token is a target only, and now comes first.
    last = np.where(starts[:, -1], 0, positions[:, -1] + 1)
    turned = np.concatenate([positions, last[:, None]], axis=1)[:, :0:-1]
    begins = np.ones(turned.shape, dtype=bool)
    begins[:, 1:] = turned[:, 1:] >= turned[:, :-1]
    places = np.maximum.accumulate(np.where(begins, np.arange(turned.shape[1]), 0), axis=1)
    return np.take_along_axis(turned, places, axis=1) - turned


def _paired(forward: Example, backward: Example) -> Example:
    """Rows 2r and 2r + 1 are a text and the same text from its end."""
    import torch

    def paired(name: str) -> torch.Tensor:
        return torch.stack([getattr(forward, name), getattr(backward, name)], dim=1).flatten(0, 1)

    positions = None if forward.positions is None else paired("positions")
    return Example(paired("inputs"), paired("targets"), paired("scored"), positions, rows_together=2)
