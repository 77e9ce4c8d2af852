"""The loss of an example from the last hidden states, without the logits of a whole sequence."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from elongate.models.language_model import LanguageModel
from elongate.objectives.agreement import meeting, summed_disagreement
from elongate.objectives.cross_entropy import summed_cross_entropy
from elongate.objectives.objective import Example


def summed_loss(
    model: LanguageModel, hidden: Float[Tensor, "batch length dim"], example: Example, head_scale: float | None = None
) -> Float[Tensor, ""]:
    """Σ w·CE over the targets of the example that are scored, in nats, and the disagreement of pairs of rows where it has a weight.

    Only what is scored meets the head, and what lies before it. `head_scale`: see `summed_cross_entropy`.
    """
    targets, weights = example.targets, example.weights
    if bool(example.scored.all()):  # nothing is gathered
        states, targets = hidden.flatten(0, 1), targets.flatten()
        weights = None if weights is None else weights.flatten()
    else:
        states, targets = hidden[example.scored], targets[example.scored]
        weights = None if weights is None else weights[example.scored]
    loss = summed_cross_entropy(model.before_head(states), model.head, targets, weights, model.precision, head_scale)
    if not example.agreement:
        return loss
    forward, backward = map(model.before_head, meeting(hidden, example.scored))
    return loss + example.agreement * summed_disagreement(forward, backward, model.head, model.precision)
