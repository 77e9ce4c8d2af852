"""Ordinary backpropagation, a few sequences at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import require
from elongate.memory.memory import Plan, sum_of

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


@dataclass(frozen=True, kw_only=True)
class Plain(Plan):
    """Keeps all activations of a pass."""

    micro_batch_tokens: int = 4096  # tokens in one forward and backward, rounded to whole sequences, at least one

    word: ClassVar[str] = "plain"
    has_attention_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        value, rule = self.micro_batch_tokens, "must be at least 1"
        require(value > 0, "micro_batch_tokens", value, rule, "use {key}=4096")

    @property
    def pass_tokens(self) -> int:
        return self.micro_batch_tokens

    def backward(self, model: LanguageModel, example: Example) -> float:
        from elongate.objectives.loss import summed_loss

        # Divide by the count of the whole batch: a mean of means would weight tokens unequally.
        count = example.weight / example.share
        losses = []
        for part in example.parts(self.rows(example.length)):
            with model.gradients.embedding(model.network.get_input_embeddings()):
                hidden = model.hidden(part.inputs, part.positions, context=part.context)
            loss = summed_loss(model, hidden, part, model.gradients.scaled(1 / count)) / count
            del hidden  # otherwise the states of the last layer live until the end of the backward pass
            loss.backward()
            losses.append(loss.detach())
        return sum_of(losses)
