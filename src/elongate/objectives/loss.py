"""The loss of an example from the last hidden states, without the logits of a whole sequence."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
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

    A lesson replaces the CE of the targets that are taught. Only states of scored targets go through the head.
    `sink`: see `summed_cross_entropy`.
    """
    if example.lesson is not None:
        return _summed_lesson(model, hidden, example, sink)
    states, targets, weights = _chosen(hidden, example, example.scored)
    loss = summed_cross_entropy(model.head_inputs(states), model.head, targets, weights, model.precision, sink)
    if not example.agreement:
        return loss
    forward, backward = map(model.head_inputs, states_of_both(hidden, example.scored))
    return loss + example.agreement * summed_disagreement(forward, backward, model.head, model.precision)


def _summed_lesson(
    model: LanguageModel, hidden: Float[Tensor, "batch length dim"], example: Example, sink: GradientSink | None
) -> Float[Tensor, ""]:
    lesson, teacher_states, taught = example.lesson, example.teacher_states, example.taught
    assert lesson is not None, "checked by the caller"
    assert teacher_states is not None, "set together with the lesson"
    assert taught is not None
    taught = taught & example.scored
    states, targets, weights = _chosen(hidden, example, taught)
    # The teacher may have read the first tokens only.
    theirs = teacher_states[taught[:, : teacher_states.shape[1]]]
    loss = lesson.summed_loss(model, states, theirs, targets, weights, sink)
    alone = example.scored & ~taught
    if not bool(alone.any()):
        return loss
    states, targets, weights = _chosen(hidden, example, alone)
    return loss + summed_cross_entropy(model.head_inputs(states), model.head, targets, weights, model.precision, sink)


def _chosen(
    hidden: Float[Tensor, "batch length dim"], example: Example, chosen: Bool[Tensor, "batch length"]
) -> tuple[Float[Tensor, "tokens dim"], Int[Tensor, " tokens"], Float[Tensor, " tokens"] | None]:
    """Return the states, targets and weights of the chosen tokens."""
    targets, weights = example.targets, example.weights
    if bool(chosen.all()):  # avoid a copy
        return hidden.flatten(0, 1), targets.flatten(), None if weights is None else weights.flatten()
    return hidden[chosen], targets[chosen], None if weights is None else weights[chosen]
