"""Gradients that are added to parameters without autograd.

Autograd passes every gradient on as a tensor of its own. Passes over few tokens, as in memory=stream, would fill, scale and
add a tensor as large as the vocabulary for each chunk. A sink adds only what the chunk contributes: the product that forms
the head's gradient, and the embedding rows of the tokens.
`GradientSink` is the only code that writes `.grad`. Anything that must see every gradient (averaging over
processes, sharded parameters) overrides `buffer` and gives the model its own sink (`LanguageModel.gradients`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from elongate.models.counted import is_counted


@dataclass(frozen=True)
class GradientSink:
    """Adds `scale` times each gradient to the `.grad` of its parameter."""

    scale: float = 1.0

    def scaled(self, factor: float) -> GradientSink:
        """Return a sink that also multiplies by `factor`."""
        return replace(self, scale=self.scale * factor)

    def takes(self, parameter: Tensor) -> bool:
        """Whether gradients of `parameter` can be added here. Autograd must pass on those of a computed tensor."""
        return parameter.is_leaf and parameter.requires_grad

    def buffer(self, parameter: Tensor) -> Tensor:
        """Return the tensor to which gradients of `parameter` are added."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        self.buffer(parameter).add_(gradient, alpha=self.scale)

    def add_product(self, parameter: Tensor, left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> None:
        """Add left @ right without forming it; on a GPU, factors in bfloat16 are summed in float32."""
        buffer = self.buffer(parameter)
        if buffer.dtype == left.dtype:
            buffer.addmm_(left, right, alpha=self.scale)
        elif is_counted():  # in a dry run: torch 2.11 cannot derive the shape of the other call
            buffer.add_(left @ right, alpha=self.scale)
        else:
            torch.addmm(buffer, left, right, out_dtype=buffer.dtype, alpha=self.scale, out=buffer)

    def add_rows(self, parameter: Tensor, indices: Int[Tensor, " count"], rows: Float[Tensor, "count dim"]) -> None:
        """Add rows at the given indices, which may repeat. The order of the sum is fixed on every device."""
        if rows.is_cuda:  # `index_add_` has no fixed order there
            self.buffer(parameter).index_put_((indices,), self.scale * rows, accumulate=True)
        else:
            self.buffer(parameter).index_add_(0, indices, rows, alpha=self.scale)

    @contextmanager
    def embedding(self, layer: nn.Module) -> Iterator[None]:
        """Within this context, the layer's backward pass adds the rows of the tokens here instead of using autograd.

        Only for a plain `nn.Embedding` that is trained; any other layer is left to autograd.
        """
        plain = type(layer) is nn.Embedding and layer.max_norm is None and not layer.scale_grad_by_freq
        if not (plain and self.takes(layer.weight)):
            yield
            return
        layer.forward = partial(_look_up, layer, self)  # type: ignore[method-assign]
        try:
            yield
        finally:
            del layer.forward


@dataclass(frozen=True)
class NewGradients(GradientSink):
    """Collects gradients in new tensors, for autograd to pass on."""

    tensors: dict[int, Tensor] = field(default_factory=dict)  # by the parameter's id

    def buffer(self, parameter: Tensor) -> Tensor:
        if id(parameter) not in self.tensors:
            self.tensors[id(parameter)] = torch.zeros_like(parameter)
        return self.tensors[id(parameter)]


def _look_up(layer: nn.Embedding, sink: GradientSink, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
    return _Lookup.apply(layer.weight, tokens, layer.padding_idx, sink)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        weight: Float[Tensor, "vocab dim"],
        tokens: Int[Tensor, "batch length"],
        padding: int | None,
        sink: GradientSink,
    ) -> Float[Tensor, "batch length dim"]:
        ctx.weight, ctx.tokens, ctx.padding, ctx.sink = weight, tokens, padding, sink
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Float[Tensor, "batch length dim"]) -> tuple[None, ...]:
        if ctx.padding is not None:  # the padding row is not trained
            grad = grad.masked_fill((ctx.tokens == ctx.padding)[..., None], 0)
        ctx.sink.add_rows(ctx.weight, ctx.tokens.flatten(), grad.flatten(0, 1))
        return None, None, None, None
