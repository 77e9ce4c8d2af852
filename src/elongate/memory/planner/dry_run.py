"""A dry run of a training step: the training code on tensors that have shapes but no numbers.

Memory and work are therefore read from the step itself, for every architecture, attention and plan. Workspaces inside torch's operators
and memory that an allocator holds back are not counted.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from elongate.objectives.objective import Example

if TYPE_CHECKING:
    from elongate.memory.memory import Memory
    from elongate.models.language_model import LanguageModel

_aten = torch.ops.aten
_LARGEST = {"cpu": 1024, "cuda": 8192}  # larger sizes do not make an operator faster, so calls that differ only above these are equal


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
class Rehearsal:
    peak: int  # bytes beyond weights and gradients
    work: Work


def rehearse(model: LanguageModel, plan: Memory, rows: int, length: int) -> Rehearsal:
    """Runs forward and backward over rows × length tokens and adds the gradients to existing ones."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    held = [*model.network.parameters(), *model.network.buffers()]
    actor = copy.copy(model)
    actor.network = copy.deepcopy(model.network, {id(tensor): fake.from_tensor(tensor) for tensor in held})
    actor.network.train()
    actor.set_text_length = _nothing  # type: ignore[method-assign]  # the frequencies of a text are numbers, of which there are none here
    counting = _Counting(model.device.type)
    with fake, counting:
        for parameter in actor.parameters():
            parameter.grad = torch.zeros_like(parameter)
        prepared = plan.prepare(actor, length)
        tokens = torch.zeros(rows, length, dtype=torch.long, device=model.device)
        example = Example(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool), None)
        for tensor in (*actor.network.parameters(), *actor.network.buffers()):
            counting.hold(tensor)
        counting.begin()
        prepared.backward(actor, example)
    return Rehearsal(counting.peak, counting.work)


def _nothing(length: int, positions: Tensor | None = None) -> None:
    pass


class _Counting(TorchDispatchMode):
    """Counts the bytes of all live storages on the device and the work of every operator."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device, self._largest = device, _LARGEST.get(device, 1024)
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._now = 0
        self.begin()

    def begin(self) -> None:
        """Resets the counts: earlier work and live tensors are ignored."""
        self._before = self._most = self._now
        self.work = Work()

    @property
    def peak(self) -> int:
        return self._most - self._before

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if tensor.device.type == self._device else 0
        if key in self._alive:
            return

        def release(_: Any) -> None:
            self._now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, release)
        self._now += size
        self._most = max(self._most, self._now)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        keywords = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        # Without numbers, every number is 1 and every check passes.
        if func is _aten._local_scalar_dense.default:
            return _one(args[0].dtype)
        if func is _aten.allclose.default:
            return True
        # A mapped file takes memory.
        if func is _aten.from_file.default:
            return torch.empty(keywords.get("size") or args[2], dtype=keywords["dtype"])
        # Trace operators that are written in Python too, so that their temporaries count.
        if (written := OPDEFS.get(func._schema.name)) is not None:
            with self:
                return written._init_fn(*args, **keywords)
        result = func(*args, **keywords)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        is_view = not func._schema.is_mutable and all(tensor.untyped_storage()._cdata in self._alive for tensor in made)
        for tensor in made:
            self.hold(tensor)
        self.work.calls += 1
        if not is_view:
            self._add(func, args, keywords, made, result)
        return result

    def _add(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], made: list[Tensor], result: Any) -> None:
        if flops := flops_of(func, args, keywords, result):
            shown = tuple(map(self._shape, args)), tuple((key, self._shape(value)) for key, value in keywords.items())
            self.work.flops[Call(func, *shown)] += flops
        else:
            given = [leaf for leaf in tree_leaves((args, keywords)) if isinstance(leaf, Tensor)]
            self.work.moved += sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))

    def _shape(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return Shape(tuple(min(size, self._largest) for size in value.shape), value.dtype)
        return min(value, self._largest) if type(value) is int else value


def _one(dtype: torch.dtype) -> bool | int | float:
    return True if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1


def flops_of(func: Any, args: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> int:
    """FLOPs of a call; 0 for operators that mainly move bytes."""
    name = func._schema.name.removeprefix("aten::")
    if "scaled_dot_product" in name:
        # Torch's own formula also counts the half that causal attention skips, and does not know the CPU operators.
        backward = "backward" in name
        query, key, value = args[1:4] if backward else args[:3]
        causal = next((given for given, known in zip(args, func._schema.arguments, strict=False) if known.name == "is_causal"), False)
        pairs = prod(query.shape[:3]) * key.shape[2] // (2 if causal or keywords.get("is_causal") else 1)
        dim, value_dim = query.shape[3], value.shape[3]
        return int(2 * pairs * (3 * dim + 2 * value_dim if backward else dim + value_dim))
    formula = flop_registry.get(getattr(_aten, name.rstrip("_"), None))
    return 0 if formula is None else int(formula(*args, **keywords, out_val=result))
