"""Meet in the Middle: both directions of a text with one causal model.

Nguyen et al. 2023, arXiv:2303.07295, section 3.1.

The same weights predict each token from the tokens before it and, in the reversed text, from the
tokens after it. The total variation distance between the two distributions draws them together; its
gradient flows to both. The loss, which is what is logged, is the mean cross-entropy over the tokens
of both directions plus `agreement` times the mean distance over the tokens that both predict. The
paper adds the cross-entropies of the directions (as far as we know: its text was not available to
us), so our weight is half of its β. It marks the directions by a sentinel token before the text. We
use none, so that the trained model reads plain text as before; the model must recognise the
direction from the first tokens of a text. A step costs two steps of `causal`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from elongate.objectives.causal import next_token
from elongate.objectives.objective import Example, Objective
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class MeetInTheMiddle(Objective):
    """objective=bidirectional on a causal model."""

    agreement: float  # weight of the distance between the directions, at least 0

    word: ClassVar[str] = "bidirectional"
    needs: ClassVar[frozenset[str]] = frozenset({"causal"})
    rows_meet: ClassVar[bool] = True

    @property
    def scorer(self) -> Scorer:
        return LeftToRight()

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        import torch

        from elongate.objectives.agreement import predicted_twice

        forward = next_token(batch)
        reversed_tokens = torch.from_numpy(batch.tokens[:, ::-1].copy())
        inputs, targets = reversed_tokens[:, :-1], reversed_tokens[:, 1:]
        positions = None
        if batch.positions is not None and batch.starts is not None:
            positions = torch.from_numpy(reversed_positions(batch.positions, batch.starts))
        # Score a token from its successor exactly where the successor is scored from it, but for tokens that are no targets.
        scored = next_token(replace(batch, scored=None)).scored.flip(1)
        if batch.scored is not None:
            scored = scored & torch.from_numpy(batch.scored)[:, :-1].flip(1)
        backward = replace(forward, inputs=inputs, targets=targets, scored=scored, positions=positions)
        pairs = _interleaved(forward, backward)
        met = int(predicted_twice(pairs.scored).sum())
        return [replace(pairs, agreement=self.agreement * pairs.weight / max(1, met))]


def reversed_positions(
    positions: Int[np.ndarray, "rows length"], starts: Bool[np.ndarray, "rows length+1"]
) -> Int[np.ndarray, "rows length"]:
    """Return the positions of the reversed text: distances within a document stay, counted from its last token."""
    # The last token, which is only a target in the text, comes first in the reversed text.
    last = np.where(starts[:, -1], 0, positions[:, -1] + 1)
    flipped = np.concatenate([positions, last[:, None]], axis=1)[:, :0:-1]
    begins = np.ones(flipped.shape, dtype=bool)
    begins[:, 1:] = flipped[:, 1:] >= flipped[:, :-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(flipped.shape[1]), 0), axis=1)
    return np.take_along_axis(flipped, first, axis=1) - flipped


def _interleaved(forward: Example, backward: Example) -> Example:
    """Make rows 2r and 2r + 1 a text and the same text reversed."""
    import torch

    def interleave(one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([one, other], dim=1).flatten(0, 1)

    positions = None
    if forward.positions is not None and backward.positions is not None:
        positions = interleave(forward.positions, backward.positions)
    return Example(
        interleave(forward.inputs, backward.inputs),
        interleave(forward.targets, backward.targets),
        interleave(forward.scored, backward.scored),
        positions,
        rows_together=2,
    )
