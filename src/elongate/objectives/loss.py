"""The loss of an example from the last hidden states, without the logits of a whole sequence."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from elongate.models.gradient_sink import GradientSink
from elongate.models.language_model import LanguageModel
from elongate.objectives.agreement import states_of_both, summed_disagreement
from elongate.objectives.cross_entropy import summed_cross_entropy
from elongate.objectives.objective import Example


def summed_loss(
    model: LanguageModel,
    hidden: Float[Tensor, "batch length dim"],
    example: Example,
    sink: GradientSink | None = None,
) -> Float[Tensor, ""]:
    """Return Σ w·CE in nats over the scored targets, plus the weighted disagreement of pairs of rows if there is one.

    Only states of scored targets go through the head. `sink`: see `summed_cross_entropy`.
    """
    targets, weights = example.targets, example.weights
    if bool(example.scored.all()):  # avoid a copy
        states, targets = hidden.flatten(0, 1), targets.flatten()
        weights = None if weights is None else weights.flatten()
    else:
        states, targets = hidden[example.scored], targets[example.scored]
        weights = None if weights is None else weights[example.scored]
    inputs = model.head_inputs(states)
    loss = summed_cross_entropy(inputs, model.head, targets, weights, model.precision, sink)
    if not example.agreement:
        return loss
    forward, backward = map(model.head_inputs, states_of_both(hidden, example.scored))
    return loss + example.agreement * summed_disagreement(forward, backward, model.head, model.precision)
