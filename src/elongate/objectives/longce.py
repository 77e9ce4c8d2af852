"""Next-token prediction in which a token weighs what the long context contributes (Fang et al. 2024, arXiv:2410.23771).

w = min(exp(loss with a short context − loss with the whole context), max_weight); no gradient flows
through w. The loss is Σ w·CE / Σ w. The logged loss is this weighted one and cannot be compared
with that of `causal`; the curve is not weighted.

Departures from the authors' code: it divides by the number of tokens, so the weights also scale the
gradient; and it reads up to `stride` tokens more of the short context (its 4096 and 1024 are
short_length=5119 and stride=1024 here). Ours never reads more than `short_length` tokens, so by
default no window is longer than the texts that the model was trained on.

Fails if the model cannot use its long context yet: all weights are then close to 1, or below 1
where more context makes the prediction worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import require
from elongate.objectives.causal import next_token
from elongate.objectives.objective import Example, Objective
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel

TOKENS = 512  # tokens with activations at a time while weights are computed: a chunk of memory=stream


@dataclass(frozen=True, kw_only=True)
class LongCE(Objective):
    """Next-token prediction, weighted by the gain from the long context."""

    short_length: int | None = None  # most tokens of a short context, at least 2; null: the original length
    stride: int | None = None  # tokens that share a short context, 1 to short_length; null: a quarter of it
    max_weight: float = 5.0  # of a token, at least 1

    word: ClassVar[str] = "longce"
    runs_model: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"causal"})

    def __post_init__(self) -> None:
        short, stride = self.short_length, self.stride
        remedy = "use {key}=256, or null for the original length"
        require(short is None or short >= 2, "short_length", short, "must be at least 2", remedy)
        require(stride is None or stride >= 1, "stride", stride, "must be at least 1", "use {key}=64, or null")
        if short is not None and stride is not None:
            remedy = f"use {{key}}={max(1, short // 4)}"
            require(stride <= short, "stride", stride, f"must be at most short_length={short}", remedy)
        require(self.max_weight >= 1, "max_weight", self.max_weight, "must be at least 1", "use {key}=5")

    def bind(self, has: frozenset[str], original_length: int) -> LongCE:
        short = self.short_length or original_length
        return replace(self, short_length=short, stride=self.stride or max(1, short // 4))

    @property
    def scorer(self) -> Scorer:
        return LeftToRight()

    def check_length(self, length: int, original_length: int) -> None:
        short = self.short_length or original_length
        rule = f"is not below the length of {length} tokens: all tokens would have the same weight"
        require(short < length, "short_length", short, rule, f"use {{key}}={max(2, length // 4)}, or objective=causal")

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        assert self.short_length, "`bind` has filled it in"
        assert self.stride, "`bind` has filled it in"
        example = next_token(batch).to(model.device)
        # In a base, and in early stages of a curriculum, the short context may be the whole one.
        if example.inputs.shape[1] > self.short_length:
            example = replace(example, weights=self._weights(model, example, self.short_length, self.stride))
        return [example]

    def _weights(
        self,
        model: LanguageModel,
        example: Example,
        short: int,
        stride: int,
    ) -> Float[Tensor, "batch length"]:
        """Return the weights; 1, without computing it, for tokens whose short context is the whole one."""
        import torch

        length, training = example.inputs.shape[1], model.network.training
        # With dropout, the two losses would differ even where the context makes no difference.
        model.network.eval()
        with torch.no_grad(), model.autocast():
            gains = -_losses(model, example, short)
            for start in range(stride, length - short + stride, stride):
                first, stop = start + short - stride, min(start + short, length)
                losses = _losses(model, _window(example, start, stop), first - start)
                if example.positions is not None:
                    # The document of such a token begins inside the window, so its short context is the whole one.
                    # Sampled positions are at least the token's index in the text, so they never match.
                    at = torch.arange(first, stop, device=losses.device) - start
                    whole = -gains[:, first - short : stop - short]
                    losses = torch.where(example.positions[:, first:stop] <= at, whole, losses)
                gains[:, first - short : stop - short] += losses
        model.network.train(training)
        weights = torch.ones(example.inputs.shape, dtype=gains.dtype, device=gains.device)
        weights[:, short:] = gains.exp().clamp(max=self.max_weight)
        return weights


def _window(example: Example, start: int, stop: int) -> Example:
    """Cut out a sequence whose positions count from its own first token."""
    cut = example.tokens(slice(start, stop))
    return cut if example.positions is None else replace(cut, positions=from_first_token(example.positions[:, start:stop]))


def from_first_token(positions: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Return the positions of a cut text, counted from its own first token."""
    first_document = (positions[:, 1:] > positions[:, :-1]).cumprod(1)
    positions = positions.clone()
    positions[:, 1:] -= first_document * positions[:, :1]
    positions[:, 0] = 0
    return positions


def _losses(model: LanguageModel, example: Example, first: int) -> Float[Tensor, "batch scored"]:
    """Return the losses of the targets from `first` on, in nats; long rows are computed in chunks."""
    import torch

    from elongate.scoring.reading import read
    from elongate.scoring.token_loss import token_cross_entropy

    length = example.inputs.shape[1]
    found = []
    for part in example.parts(max(1, TOKENS // length)):
        losses = []
        for (start, stop), hidden in read(model, part.inputs, part.positions, TOKENS):
            if stop > first:
                scored = slice(max(start, first), stop)
                states = model.head_inputs(hidden[:, scored.start - start :])
                losses.append(token_cross_entropy(states, model.head, part.targets[:, scored], model.precision))
        found.append(torch.cat(losses, dim=1))
    return torch.cat(found)
