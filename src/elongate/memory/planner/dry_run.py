"""A dry run of a training step: the training code on tensors that have shapes but no numbers.

Memory and work are therefore read from the step itself, for every architecture, attention and plan. Workspaces inside
torch's operators and memory that an allocator keeps for reuse are not counted.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from elongate.memory.planner.layers import truncate
from elongate.memory.planner.operators import GROUPED_PRODUCT, OperatorMode, flops_of, grouped_sizes
from elongate.memory.planner.repeated_blocks import repeated_blocks
from elongate.objectives.objective import Example

if TYPE_CHECKING:
    from elongate.memory.memory import Plan
    from elongate.models.language_model import LanguageModel

_aten = torch.ops.aten
_LARGEST = {"cpu": 1024, "cuda": 8192}  # larger sizes do not make an operator faster, so calls that differ only above these are equal

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

    peak: int  # bytes beyond weights and gradients
    disk: int  # bytes in files
    work: Work


def dry_run(model: LanguageModel, plan: Plan, rows: int, length: int, num_layers: int | None = None) -> DryRun:
    """Run forward and backward over rows × length tokens, adding the gradients to existing ones.

    `num_layers`: run only the first layers; None: all.
    """
    _ = model.receives_layouts  # found with numbers
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    real = [*model.network.parameters(), *model.network.buffers()]
    actor = copy.copy(model)
    actor.adjustment = model.adjustment  # found by running the network, which needs numbers
    actor.network = copy.deepcopy(model.network, {id(tensor): fake.from_tensor(tensor) for tensor in real})
    if num_layers is not None:
        truncate(actor.network, num_layers)
    actor.network.train()
    actor.set_text_length = _nothing  # type: ignore[method-assign]  # it computes frequencies, which are numbers
    counter = _StepCounter(model.device.type)
    with model.kernels.off(), fake, counter, repeated_blocks(counter.repeat):
        for parameter in actor.parameters():
            parameter.grad = torch.zeros_like(parameter)
        prepared = plan.prepare(actor, length)
        tokens = torch.zeros(rows, length, dtype=torch.long, device=model.device)
        example = Example(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool), None)
        for tensor in (*actor.network.parameters(), *actor.network.buffers()):
            counter.add_storage(tensor)
        counter.reset()
        prepared.backward(actor, example)
    return DryRun(counter.peak, sum(counter.files.values()), counter.work)


def _nothing(length: int, positions: Tensor | None = None) -> None:
    pass


class _StepCounter(OperatorMode):
    """Counts the bytes of all live storages on the device and the work of every operator."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device, self._largest = device, _LARGEST.get(device, 1024)
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._bytes = 0
        self._times = 1
        self.files: dict[str, int] = {}  # bytes by path
        self.reset()

    def reset(self) -> None:
        """Forget earlier work and do not count the tensors that exist now."""
        self._first_bytes = self._most_bytes = self._bytes
        self.work = Work()

    def repeat(self, times: int) -> None:
        """Count the work of each operator from here on `times` times."""
        self._times = times

    @property
    def peak(self) -> int:
        return self._most_bytes - self._first_bytes

    def add_storage(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if tensor.device.type == self._device else 0
        if key in self._alive:
            return

        def release(_: Any) -> None:
            self._bytes -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, release)
        self._bytes += size
        self._most_bytes = max(self._most_bytes, self._bytes)

    def call(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        # Without numbers, every number is 1 and every check passes.
        if func is _aten._local_scalar_dense.default:
            return _one(args[0].dtype)
        if func is _aten.allclose.default:
            return True
        # A mapped file takes memory.
        if func is _aten.from_file.default:
            mapped = torch.empty(keywords.get("size") or args[2], dtype=keywords["dtype"])
            self.files[args[0]] = mapped.untyped_storage().nbytes()
            return mapped
        if func is GROUPED_PRODUCT:
            # Torch's rule for shapes only allows bfloat16, but the operator computes every precision.
            result = args[0].new_empty(grouped_sizes(args[0], args[1], _offsets(args, keywords))[0])
        else:
            result = super().call(func, args, keywords)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        is_view = not func._schema.is_mutable and all(tensor.untyped_storage()._cdata in self._alive for tensor in made)
        for tensor in made:
            self.add_storage(tensor)
        self.work.calls += self._times
        if not is_view:
            self._add_work(func, args, keywords, made, result)
        return result

    def _add_work(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], made: list[Tensor], result: Any) -> None:
        if flops := flops_of(func, args, keywords, result):
            self.work.flops[self._measured(func, args, keywords)] += self._times * flops
        else:
            given = [leaf for leaf in tree_leaves((args, keywords)) if isinstance(leaf, Tensor)]
            self.work.moved += self._times * sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))

    def _measured(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Call:
        """The call whose speed is that of this one."""
        if func is GROUPED_PRODUCT:
            # The speed depends on the numbers in a tensor, which a dry run does not have.
            dtype, factors = args[0].dtype, grouped_sizes(args[0], args[1], _offsets(args, keywords))[1:]
            return Call(_aten.bmm.default, tuple(Shape((min(count, _GROUPS), *self._shape(sizes)), dtype) for count, *sizes in factors), ())
        return Call(func, tuple(map(self._shape, args)), tuple((key, self._shape(value)) for key, value in keywords.items()))

    def _shape(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return Shape(tuple(min(size, self._largest) for size in value.shape), value.dtype)
        if isinstance(value, list | tuple):
            return tuple(map(self._shape, value))
        return min(value, self._largest) if type(value) is int else value


def _offsets(args: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """Where the groups of a grouped product end."""
    return args[2] if len(args) > 2 else keywords["offs"]


def _one(dtype: torch.dtype) -> bool | int | float:
    return True if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1
