"""Counting the operators that torch runs, and their FLOPs."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

GROUPED_PRODUCT = torch.ops.aten._grouped_mm.default  # a product per expert, over the tokens of each

Sizes = tuple[int, ...]


class OperatorMode(TorchDispatchMode):
    """Passes every operator through `call`. An operator written in Python is replaced by those that it calls."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiles the dispatch, and disabling that takes time in every call

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        keywords = kwargs or {}
        if func.namespace != "aten" and (definition := OPDEFS.get(func._schema.name)) is not None:
            with self:
                return definition._init_fn(*args, **keywords)
        return self.call(func, args, keywords)

    def call(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Run the operator."""
        return func(*args, **keywords)


class FlopCounter(OperatorMode):
    """Counts the FLOPs of matrix products and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def call(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        result = super().call(func, args, keywords)
        self.flops += flops_of(func, args, keywords, result)
        return result


def flops_of(func: Any, args: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> int:
    """FLOPs of a call; 0 for operators that mainly move bytes."""
    name = func._schema.name.removeprefix("aten::")
    if func is GROUPED_PRODUCT:
        return 2 * prod(args[0].shape) * args[1].shape[-1] // (args[0].shape[0] if args[0].ndim > args[1].ndim else 1)
    if "scaled_dot_product" in name:
        return _attention_flops(func, args, keywords, "backward" in name)
    if func in (torch.ops.aten._flash_attention_forward.default, torch.ops.aten._flash_attention_backward.default):
        return _band_flops(args, keywords, "backward" in name)
    formula = flop_registry.get(getattr(torch.ops.aten, name.rstrip("_"), None))
    return 0 if formula is None else int(formula(*args, **keywords, out_val=result))


def _attention_flops(func: Any, args: tuple[Any, ...], keywords: dict[str, Any], backward: bool) -> int:
    """Torch's own formula also counts the half that causal attention skips, and does not know the CPU operators."""
    query, key, value = args[1:4] if backward else args[:3]
    names = [argument.name for argument in func._schema.arguments]
    causal = dict(zip(names, args, strict=False)).get("is_causal", False) or keywords.get("is_causal", False)
    pairs = prod(query.shape[:3]) * key.shape[2] // (2 if causal else 1)
    dim, value_dim = query.shape[3], value.shape[3]
    return int(2 * pairs * (3 * dim + 2 * value_dim if backward else dim + value_dim))


def _band_flops(args: tuple[Any, ...], keywords: dict[str, Any], backward: bool) -> int:
    """FLOPs of attention within a window: each query sees as many keys as the window is wide."""
    query, key = args[1:3] if backward else args[:2]
    rows, queries, heads, dim = query.shape
    keys = min(key.shape[1], 1 + keywords["window_size_left"] + keywords["window_size_right"])
    return int(2 * rows * heads * queries * keys * dim * (5 if backward else 2))


def grouped_sizes(first: Tensor, second: Tensor, ends: Tensor) -> tuple[Sizes, Sizes, Sizes]:
    """Sizes of the result of a grouped product, and of the factors of a batched product that does the same work.

    `ends` has where each group ends in the dimension that a factor without groups is cut in: the rows of `first`, the
    columns of `second`, or what both are summed over. The batched product has groups of equal size.
    """
    count = len(ends)
    rows, inner, columns = first.shape[-2], first.shape[-1], second.shape[-1]
    if first.ndim == second.ndim:
        share = max(1, inner // count)
        return (count, rows, columns), (count, rows, share), (count, share, columns)
    if first.ndim < second.ndim:
        return (rows, columns), (count, max(1, rows // count), inner), (count, inner, columns)
    return (rows, columns), (count, rows, inner), (count, inner, max(1, columns // count))


def grouped_offsets(args: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """Where the groups of a grouped product end."""
    return args[2] if len(args) > 2 else keywords["offs"]
