"""The head of a network, apart from its body.

It is a matrix. Masked models have a small transform before it; some models scale or cap the logits after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

Step = str | Callable[[Tensor], Tensor]  # the name of a module of the network, or a function

_TRANSFORMS: tuple[tuple[Step, ...], ...] = (
    ("cls.predictions.transform",),  # BERT and models derived from it
    ("head",),  # ModernBERT
    ("generator_predictions",),  # the generator of ELECTRA
    ("lm_head.dense", F.gelu, "lm_head.layer_norm"),  # RoBERTa-style models
    ("vocab_transform", F.gelu, "vocab_layer_norm"),  # DistilBERT
    ("predictions.dense", "predictions.activation", "predictions.LayerNorm"),  # ALBERT
    ("cls.predictions.dense", "cls.predictions.activation", "cls.predictions.LayerNorm"),  # RemBERT
)
_REST = "cls.predictions.dense"  # MobileBERT: the columns of the head beside those that it shares with the smaller embedding


@dataclass(frozen=True)
class Adjustment:
    """What a network does to the products x of its head: x becomes cap · tanh(scale · x / cap)."""

    scale: float = 1.0
    cap: float | None = None  # above 0; None: x becomes scale · x

    def apply_(self, products: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """Return the logits. Overwrites the products."""
        if self.scale != 1:
            products.mul_(self.scale)
        # The last step is not in place: the backward pass of tanh needs its result.
        return products if self.cap is None else products.div_(self.cap).tanh_() * self.cap

    def slope(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"] | float:
        """Return the derivative of the logits with respect to the products."""
        return self.scale if self.cap is None else (logits / self.cap).square_().neg_().add_(1).mul_(self.scale)


@dataclass(frozen=True)
class Head:
    """Maps states to logits."""

    weight: Float[Tensor, "vocab dim"]
    bias: Float[Tensor, " vocab"] | None = None
    adjustment: Adjustment = Adjustment()

    def to(self, dtype: torch.dtype) -> Head:
        """Return the head with its weights in another type."""
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))

    def logits(self, inputs: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Return the logits in at least float32; the products have the type of the weights."""
        products = F.linear(inputs.to(self.weight.dtype), self.weight, self.bias)
        return self.adjustment.apply_(products.to(torch.promote_types(products.dtype, torch.float32)))


def head_weights(network: PreTrainedModel) -> tuple[Float[Tensor, "vocab dim"], Float[Tensor, " vocab"] | None]:
    """Return the matrix and the bias that map states to logits."""
    layer = network.get_output_embeddings()
    modules = dict(network.named_modules())
    if (rest := modules.get(_REST)) is not None and rest.weight.shape[1] == layer.weight.shape[0]:
        return torch.cat([layer.weight, rest.weight.T], dim=1), layer.bias
    return layer.weight, layer.bias


def head_transform(network: PreTrainedModel) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the steps between the last hidden states and the matrix of the head. Causal networks have none."""
    modules = dict(network.named_modules())
    for steps in _TRANSFORMS:
        if all(step in modules for step in steps if isinstance(step, str)):
            yield from (modules[step] if isinstance(step, str) else step for step in steps)
            return
