"""A dry run of a training step: the training code on tensors that have shapes but no numbers.

Memory and work are therefore read from the step itself, for every architecture, attention and plan. Workspaces inside
torch's operators and memory that an allocator keeps for reuse are not counted.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from elongate.memory.planner.hollow import HollowMode, Outlines
from elongate.memory.planner.launches import counted_launches
from elongate.memory.planner.layers import stack_of, truncate
from elongate.memory.planner.operators import GROUPED_PRODUCT, flops_of, grouped_offsets, grouped_sizes
from elongate.memory.planner.repeated_blocks import repeated_blocks
from elongate.objectives.objective import Example

if TYPE_CHECKING:
    from elongate.memory.memory import Plan
    from elongate.models.language_model import LanguageModel

_aten = torch.ops.aten
_LARGEST = {"cpu": 512, "cuda": 8192}  # larger sizes do not make an operator faster, so calls that differ only above these are equal

_GROUPS = 8  # more products in one call do not make it faster either


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor argument."""

    sizes: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Call:
    """An operator and its arguments, with shapes instead of tensors. Sizes are capped at the largest that matters for speed."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]


@dataclass
class Work:
    """The work of a step."""

    flops: Counter[Call] = field(default_factory=Counter)  # of matrix products and of the attention blocks that are computed
    moved: float = 0.0  # bytes read and written by all other operators
    calls: float = 0.0  # of operators


@dataclass(frozen=True)
class DryRun:
    """What a step would take."""

    # The most bytes beyond weights and gradients that exist after the calls of an operator in a part of the step: in the
    # layers or outside, forward or backward.
    peaks: dict[Any, int]
    disk: int  # bytes in files
    work: Work

    @property
    def peak(self) -> int:
        """Return the most bytes beyond weights and gradients."""
        return max(0, *self.peaks.values())


def dry_run(
    model: LanguageModel, plan: Plan, rows: int, length: int, num_layers: int | None = None, outlines: Outlines | None = None
) -> DryRun:
    """Run forward and backward over rows × length tokens, adding the gradients to existing ones.

    `num_layers`: run only the first layers; None: all. `outlines`: of calls in earlier runs.
    """
    actor = model if num_layers is None else shallow(model, num_layers)
    return run_hollow(actor, plan, rows, length, {} if outlines is None else outlines)


def shallow(model: LanguageModel, num_layers: int) -> LanguageModel:
    """Return the model with its first layers only. Weights are shared."""
    actor = _copied(model, {id(tensor): tensor for tensor in (*model.network.parameters(), *model.network.buffers())})
    truncate(actor.network, num_layers)
    return actor


def run_hollow(model: LanguageModel, plan: Plan, rows: int, length: int, outlines: Outlines) -> DryRun:
    """Run forward and backward."""
    counter = _StepCounter(outlines, model.device)
    actor = _copied(model, {id(tensor): counter.hollow(tensor) for tensor in (*model.network.parameters(), *model.network.buffers())})
    actor.network.train()
    counter.watch_layers(actor.network)
    actor.set_text_length = _nothing  # type: ignore[method-assign]  # it computes frequencies, which are numbers
    with counter, repeated_blocks(counter.repeat), counted_launches(counter.launched):
        for parameter in actor.parameters():
            parameter.grad = torch.zeros_like(parameter)
        prepared = plan.prepare(actor, length)
        tokens = torch.zeros(rows, length, dtype=torch.long, device=model.device)
        example = Example(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool), None)
        counter.reset()
        prepared.backward(actor, example)
    return DryRun(counter.peaks, sum(counter.files.values()), counter.work)


def _copied(model: LanguageModel, tensors: dict[int, Tensor]) -> LanguageModel:
    """Return a copy with other weights. What is found by running the network with numbers is found before."""
    _ = model.receives_layouts, model.is_causal
    actor = copy.copy(model)
    actor.adjustment = model.adjustment
    actor.network = copy.deepcopy(model.network, dict(tensors))
    return actor


def _nothing(length: int, positions: Tensor | None = None) -> None:
    pass


class _StepCounter(HollowMode):
    """Counts the bytes of all live tensors and the work of every operator."""

    def __init__(self, outlines: Outlines, device: torch.device) -> None:
        super().__init__(outlines, device)
        self._largest = _LARGEST.get(device.type, 512)
        self._times = 1
        self._in_layer = False
        self.reset()

    def reset(self) -> None:
        """Forget earlier work and do not count the tensors that exist now."""
        self._first_bytes = self.account.bytes
        self._most: dict[Any, int] = {}
        self.work = Work()

    def watch_layers(self, network: nn.Module) -> None:
        """Find out which operators are called by the layers."""

        def enter(*_: Any) -> None:
            self._in_layer = True

        def leave(*_: Any) -> None:
            self._in_layer = False

        name = stack_of(network)
        for layer in () if name is None else network.get_submodule(name).children():
            layer.register_forward_pre_hook(enter)
            layer.register_forward_hook(leave, always_call=True)

    def repeat(self, times: int) -> None:
        """Count the work of each operator from here on `times` times."""
        self._times = times

    @property
    def peaks(self) -> dict[Any, int]:
        return {part: most - self._first_bytes for part, most in self._most.items()}

    def ran(self, func: Any, cost: tuple[Call | None, int] | None) -> None:
        part = func, self._in_layer, torch._C._current_graph_task_id() != -1
        if self.account.bytes > self._most.get(part, 0):
            self._most[part] = self.account.bytes
        self.work.calls += self._times
        if cost is None:
            return
        call, amount = cost
        if call is None:
            self.work.moved += self._times * amount
        else:
            self.work.flops[call] += self._times * amount

    def launched(self, moved: int) -> None:
        """Count a kernel that is no operator of torch and reads or writes `moved` bytes."""
        self.work.calls += self._times
        self.work.moved += self._times * moved

    def cost_of(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> tuple[Call | None, int]:
        """Return the FLOPs and the call whose speed is that of this one; or the bytes that are read and written."""
        if flops := flops_of(func, args, keywords, result):
            return self._measured(func, args, keywords), flops
        moved = [leaf for leaf in tree_leaves((args, keywords, result)) if isinstance(leaf, Tensor)]
        return None, sum(tensor.numel() * tensor.element_size() for tensor in moved)

    def _measured(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Call:
        if func is GROUPED_PRODUCT:
            # The speed depends on the numbers in a tensor, which a dry run does not have.
            dtype, factors = args[0].dtype, grouped_sizes(args[0], args[1], grouped_offsets(args, keywords))[1:]
            return Call(_aten.bmm.default, tuple(Shape((min(count, _GROUPS), *self._shape(sizes)), dtype) for count, *sizes in factors), ())
        return Call(func, tuple(map(self._shape, args)), tuple((key, self._shape(value)) for key, value in keywords.items()))

    def _shape(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return Shape(tuple(min(size, self._largest) for size in value.shape), value.dtype)
        if isinstance(value, list | tuple):
            return tuple(map(self._shape, value))
        return min(value, self._largest) if type(value) is int else value
