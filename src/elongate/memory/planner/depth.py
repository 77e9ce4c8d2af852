"""A dry run of a deep network from two shallow ones.

Layers that are built alike cost the same, so a stack in which a period of layers repeats costs a fixed part and a part
per period. A stack whose layers share state, or differ in any setting without a period, is run as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from elongate.memory.planner.layers import stack_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from torch import nn

    from elongate.memory.planner.dry_run import DryRun
    from elongate.models.language_model import LanguageModel

_OWN = {"layer_idx", "layer_id", "training"}  # differ between layers that are alike


class Depths(NamedTuple):
    """Numbers of layers: of two dry runs, and of the network."""

    shallow: int
    deeper: int
    whole: int


def depths(model: LanguageModel) -> Depths | None:
    """Return the numbers of layers of two dry runs that together have fewer layers than the network; None if none do."""
    name = stack_of(model.network)
    if name is None:
        return None
    kinds = _kinds(model, name)
    for period in range(1, len(kinds) // 3 + 1):
        # The first layers may differ, as dense layers before experts do.
        first = len(kinds)
        while first > period and kinds[first - 1] == kinds[first - 1 - period]:
            first -= 1
        repeated = (len(kinds) - first) // period
        # Whole periods are left out, so that the shallow stack ends with the same layers.
        shallow = len(kinds) - repeated * period
        if 2 * shallow + period < len(kinds):
            return Depths(shallow, shallow + period, len(kinds))
    return None


def composed(first: DryRun, second: DryRun, at: Depths) -> DryRun:
    """Return the dry run of the whole network from those of its shallow and its deeper part."""
    times = (at.whole - at.shallow) / (at.deeper - at.shallow)

    def at_depth(one: float, two: float) -> float:
        return one + times * (two - one)

    one, two = first.work, second.work
    flops = Counter({call: at_depth(one.flops[call], two.flops[call]) for call in {*one.flops, *two.flops}})
    work = replace(one, flops=flops, moved=at_depth(one.moved, two.moved), calls=at_depth(one.calls, two.calls))
    peaks = {name: round(at_depth(first.peaks.get(name, most), most)) for name, most in second.peaks.items()}
    return replace(first, peaks=peaks, disk=round(at_depth(first.disk, second.disk)), work=work)


def _kinds(model: LanguageModel, name: str) -> list[Hashable]:
    """Return what decides the cost of each layer: classes, settings, tensors and the lists of the configuration."""
    layers = list(model.network.get_submodule(name).children())
    lists = [value for value in vars(model.config).values() if isinstance(value, list | tuple) and len(value) == len(layers)]
    owners = Counter(id(p) for layer in layers for p in layer.parameters())
    return [(_kind(layer, owners), *(repr(value[number]) for value in lists)) for number, layer in enumerate(layers)]


def _kind(layer: nn.Module, owners: Counter[int]) -> Hashable:
    settings = [
        (name, type(module), tuple((key, repr(value)) for key, value in sorted(vars(module).items()) if _is_setting(key, value)))
        for name, module in layer.named_modules()
    ]
    tensors = [
        (name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad, owners[id(tensor)])
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers())
    ]
    return tuple(settings), tuple(tensors)


def _is_setting(key: str, value: object) -> bool:
    if key in _OWN or key.startswith("_"):
        return False
    return value is None or isinstance(value, bool | int | float | str | tuple | list | dict)
