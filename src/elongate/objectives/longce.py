"""Next-token prediction in which a token weighs what the long context does for it (Fang et al. 2024, arXiv:2410.23771, LongCE).

w = min(exp(loss with a short context − loss with the whole one), max_weight), and no gradient goes through it. The loss is Σ w·CE / Σ w, so
the loss that is logged is the weighted one, not comparable with that of `causal`; the curve is not weighted. The authors' code divides by
the number of tokens instead, which lets weights act on the size of the gradient too, and reads the short context up to `stride` tokens
further back: its 4096 and 1024 are short_length=5119 and stride=1024 here. Ours never reads more than `short_length` tokens, so that by
itself no window is longer than what the model was trained on. Fails where the model cannot use its long context yet: all weights are then
near 1, or below it where more context makes the prediction worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import require
from elongate.objectives.causal import next_token
from elongate.objectives.objective import Example, Objective
from elongate.objectives.reading import LeftToRight, Reading

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from elongate.data.sequences import Batch
    from elongate.models.language_model import LanguageModel

TOKENS = 512  # that have activations at once while they are weighed: as many as in a chunk of memory=stream


@dataclass(frozen=True, kw_only=True)
class LongCE(Objective):
    short_length: int | None = None  # tokens of a short context at most, at least 2; null: the model's original length
    stride: int | None = None  # tokens that share a short context, 1 to short_length, time falls with it; null: a quarter of short_length
    max_weight: float = 5.0  # of a token, at least 1

    word: ClassVar[str] = "longce"
    needs: ClassVar[frozenset[str]] = frozenset({"causal"})

    def __post_init__(self) -> None:
        short, stride = self.short_length, self.stride
        require(short is None or short >= 2, "short_length", short, "must be at least 2", "use {key}=256, or null for the original length")
        require(stride is None or stride >= 1, "stride", stride, "must be at least 1", "use {key}=64, or null")
        if short is not None and stride is not None:
            require(stride <= short, "stride", stride, f"must be at most short_length={short}", f"use {{key}}={max(1, short // 4)}")
        require(self.max_weight >= 1, "max_weight", self.max_weight, "must be at least 1", "use {key}=5")

    def on(self, has: frozenset[str], original_length: int) -> LongCE:
        short = self.short_length or original_length
        return replace(self, short_length=short, stride=self.stride or max(1, short // 4))

    @property
    def reading(self) -> Reading:
        return LeftToRight()

    def check_length(self, length: int, original_length: int) -> None:
        short = self.short_length or original_length
        rule = f"is not below the length of {length} tokens: every token would weigh the same"
        require(short < length, "short_length", short, rule, f"use {{key}}={max(2, length // 4)}, or objective=causal")

    def examples(self, batch: Batch, model: LanguageModel) -> list[Example]:
        assert self.short_length, "`on` has filled it in"
        assert self.stride, "`on` has filled it in"
        example = next_token(batch).to(model.device)
        # The stages of a base, and the first of a curriculum, may have nothing that a short context lacks.
        if example.inputs.shape[1] > self.short_length:
            example = replace(example, weights=self._weights(model, example, self.short_length, self.stride))
        return [example]

    def _weights(self, model: LanguageModel, example: Example, short: int, stride: int) -> Float[Tensor, "batch length"]:
        """1 for every token whose short context is the whole one: it is not computed."""
        import torch

        length, training = example.inputs.shape[1], model.network.training
        # Two draws of dropout would make a difference where the context makes none.
        model.network.eval()
        with torch.no_grad(), model.autocast():
            gains = -_losses(model, example, short)
            for start in range(stride, length - short + stride, stride):
                first, stop = start + short - stride, min(start + short, length)
                told = _losses(model, _window(example, start, stop), first - start)
                if example.positions is not None:
                    # Its document begins inside the window. Positions that are sampled lie ahead of the tokens and never say so.
                    at = torch.arange(first, stop, device=told.device) - start
                    told = torch.where(example.positions[:, first:stop] <= at, -gains[:, first - short : stop - short], told)
                gains[:, first - short : stop - short] += told
        model.network.train(training)
        weights = torch.ones(example.inputs.shape, dtype=gains.dtype, device=gains.device)
        weights[:, short:] = gains.exp().clamp(max=self.max_weight)
        return weights


def _window(example: Example, start: int, stop: int) -> Example:
    """A sequence of its own: its positions, too, are counted from its first token."""
    cut = example.tokens(slice(start, stop))
    if example.positions is None:
        return cut
    positions = example.positions[:, start:stop]
    first_document = (positions[:, 1:] > positions[:, :-1]).cumprod(1)
    positions = positions.clone()
    positions[:, 1:] -= first_document * positions[:, :1]
    positions[:, 0] = 0
    return replace(cut, positions=positions)


def _losses(model: LanguageModel, example: Example, first: int) -> Float[Tensor, "batch scored"]:
    """Of the targets from `first` on, in nats: some rows at a time and, where they are long, some tokens of them at a time."""
    import torch

    from elongate.context.attention.kernel.kv_store import KeyValueStore
    from elongate.objectives.cross_entropy import token_cross_entropy

    length = example.inputs.shape[1]
    step = TOKENS if model.meets_in_attention else length
    found = []
    for part in example.parts(max(1, TOKENS // length)):
        layout, kept = model.layout(part.inputs, part.positions), KeyValueStore(past={}) if step < length else None
        losses = []
        for start in range(0, length, step):
            chunk = (start, min(start + step, length))
            hidden = model.hidden(part.inputs[:, slice(*chunk)], part.positions, layout.for_chunk(chunk, kept))
            if chunk[1] > first:
                scored = slice(max(start, first), chunk[1])
                states = model.before_head(hidden[:, scored.start - start :])
                losses.append(token_cross_entropy(states, model.head, part.targets[:, scored], model.precision))
        found.append(torch.cat(losses, dim=1))
    return torch.cat(found)
