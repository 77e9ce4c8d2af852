"""Tensors with shape, type and device but without numbers, for dry runs.

With torch's fake tensors, the shape of every result is derived at every call, in about 0.4 ms. A step makes thousands of
calls, but only a few hundred different ones. Here each of these is derived once, and its outline is reused.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from elongate.memory.planner.operators import GROUPED_PRODUCT, OperatorMode, grouped_offsets, grouped_sizes

_aten = torch.ops.aten
_CPU = torch.device("cpu")
_NUMBERS = {_aten._local_scalar_dense.default, _aten.allclose.default, _aten.equal.default}  # without them, every check passes


@dataclass(frozen=True, eq=False)
class Key:
    """What a tensor is like; there is one object for tensors that are alike. A place in memory changes no cost."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


_keys: dict[tuple[Any, ...], Key] = {}


class Account:
    """Bytes that live tensors occupy."""

    def __init__(self) -> None:
        self.bytes = 0


class Allocation:
    """The memory of a tensor and its views. Its bytes are returned with the last of them."""

    __slots__ = ("account", "size")

    def __init__(self, account: Account, size: int) -> None:
        self.account, self.size = account, size
        account.bytes += size

    def __del__(self) -> None:
        self.account.bytes -= self.size


class HollowTensor(Tensor):
    """A tensor without numbers."""

    allocation: Allocation | None
    key: Key

    @staticmethod
    def __new__(cls, key: Key, allocation: Allocation | None) -> HollowTensor:
        # Torch asks the device of a tensor for its stream. Without a card, the tensor says that it is on the CPU.
        known = key.device if key.device.type == "cpu" or torch.cuda.is_available() else _CPU
        made: HollowTensor = Tensor._make_wrapper_subclass(cls, key.sizes, key.strides, dtype=key.dtype, device=known)  # type: ignore[attr-defined]
        made.key, made.allocation = key, allocation
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        raise NotImplementedError(f"{func} outside of a dry run")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.key.device

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.key.device.type == "cuda"

    def to(self, *args: Any, **keywords: Any) -> Tensor:
        """Copy only to another device or type. Torch compares the device that it knows."""
        others = [value for value in (*args, *keywords.values()) if isinstance(value, Tensor)]
        devices = [torch.device(value) for value in (*args, keywords.get("device")) if isinstance(value, str | torch.device)]
        dtypes = [value for value in (*args, keywords.get("dtype")) if isinstance(value, torch.dtype)]
        device = next(iter([*devices, *(other.device for other in others)]), self.device)
        dtype = next(iter([*dtypes, *(other.dtype for other in others)]), self.dtype)
        same = device.type == self.device.type and dtype == self.dtype
        if same and not keywords.get("copy", False):
            return self
        found: Tensor = _aten._to_copy(self, dtype=dtype, device=device if device.type != self.device.type else self.device)
        return found

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.to(_CPU)

    def tolist(self) -> Any:
        return self.item() if self.dim() == 0 else [element.tolist() for element in self]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"HollowTensor({self.key})"


@dataclass(frozen=True)
class Result:
    """A tensor that a call returns: an argument itself, a view of it, or a new one."""

    key: Key
    argument: int | None  # whose memory it shares; None: it has its own
    is_argument: bool
    size: int  # bytes of its own memory


@dataclass(frozen=True)
class Outline:
    """The results and the cost of a call. They do not depend on the contents of tensors."""

    results: Any  # like what the operator returns, with a `Result` in place of each tensor
    cost: Any  # what `cost_of` returned; None: the call returns views and computes nothing


Outlines = dict[Any, Outline]  # by operator and arguments


class HollowMode(OperatorMode):
    """Runs operators on tensors without numbers."""

    def __init__(self, outlines: Outlines, device: torch.device) -> None:
        super().__init__()
        self._outlines, self._device, self.account = outlines, device, Account()
        self.files: dict[str, int] = {}  # bytes by path

    def hollow(self, tensor: Tensor) -> HollowTensor:
        """Return a tensor like this one, on the device of the dry run unless it has numbers."""
        key = _key(tensor, self._device if tensor.is_meta else tensor.device)
        made = self._new(key, tensor.untyped_storage().nbytes())
        if isinstance(tensor, nn.Parameter):
            made.requires_grad_(tensor.requires_grad)
            made._is_param = True  # type: ignore[attr-defined]  # what makes a tensor of another class a parameter
        return made

    def call(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if func in _NUMBERS:
            return _one(args[0].dtype) if func is _aten._local_scalar_dense.default else True
        tensors: list[HollowTensor] = []
        decisive = [func]
        self._freeze(args, decisive, tensors)
        if keywords:
            self._freeze(keywords.items(), decisive, tensors)
        key = tuple(decisive)
        outline = self._outlines.get(key)
        if outline is None:
            outline = self._outlines[key] = self._derive(func, args, keywords, tensors)
        if func is _aten.from_file.default:
            self.files[args[0]] = outline.results.size
        result = self._build(outline.results, tensors)
        self.ran(func, outline.cost)
        return result

    def _new(self, key: Key, size: int) -> HollowTensor:
        # Only the memory of the device counts: a card can leave tensors to its host.
        return HollowTensor(key, Allocation(self.account, size if key.device.type == self._device.type else 0))

    def ran(self, func: Any, cost: Any) -> None:
        """Called after each operator with its cost."""

    def cost_of(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> Any:
        """Return what `ran` needs to know of such calls. The tensors are fake ones."""

    def _freeze(self, values: Iterable[Any], decisive: list[Any], tensors: list[HollowTensor]) -> None:
        """Collect what decides the outline of a call, and its tensors in their order."""
        for value in values:
            kind = type(value)
            if kind is HollowTensor or isinstance(value, HollowTensor):
                tensors.append(value)
                decisive.append(value.key)
            elif kind is tuple or kind is list:
                decisive.append(len(value))
                self._freeze(value, decisive, tensors)
            elif isinstance(value, Tensor):
                tensors.append(self.hollow(value))
                decisive.append(tensors[-1].key)
            else:
                decisive.append(kind)  # 1, 1.0 and True are equal
                decisive.append(value)

    def _build(self, result: Any, tensors: list[HollowTensor]) -> Any:
        kind = type(result)
        if kind is Result:
            if result.is_argument:
                return tensors[result.argument]
            if result.argument is None:
                return self._new(result.key, result.size)
            return HollowTensor(result.key, tensors[result.argument].allocation)
        if kind is tuple or kind is list:
            return kind([self._build(element, tensors) for element in result])
        return result

    def _derive(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], tensors: list[HollowTensor]) -> Outline:
        """Run an operator on tensors that torch knows how to compute without numbers."""
        keys = [tensor.key for tensor in tensors]
        devices = [key.device for key in keys]
        # A number on the CPU can be combined with tensors of any device.
        device = next((device for device in devices if device.type != "cpu"), _CPU)
        fakes, args, keywords, found = _derived(func, args, keywords, keys)
        storages = {fake.untyped_storage()._cdata: number for number, fake in reversed(list(enumerate(fakes)))}

        def described(made: Tensor) -> Result:
            storage = made.untyped_storage()
            same = next((number for number, fake in enumerate(fakes) if made is fake), None)
            argument = storages.get(storage._cdata) if same is None else same
            return Result(_key(made, device if made.is_meta else None), argument, same is not None, storage.nbytes())

        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        is_view = not func._schema.is_mutable and all(tensor.untyped_storage()._cdata in storages for tensor in made)
        cost = None if is_view else self.cost_of(func, args, keywords, found)
        return Outline(tree_map_only(Tensor, described, found), cost)


_fake_mode = FakeTensorMode()


def _derived(func: Any, args: Any, keywords: dict[str, Any], keys: list[Key]) -> tuple[list[Tensor], Any, dict[str, Any], Any]:
    """Return stand-ins of the tensors, the arguments with them, and the result.

    Meta tensors are fast. Fake tensors also know their device, which an operator can be given.
    """
    fake = not keys or "device" in keywords
    with _fake_mode if fake else nullcontext():
        stand_ins = [_stand_in(key, key.device if fake else torch.device("meta")) for key in keys]
        left = iter(stand_ins)
        args, pairs = tree_map_only(Tensor, lambda _: next(left), (args, tuple(keywords.items())))
        return stand_ins, args, dict(pairs), _run(func, args, dict(pairs))


def _run(func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    if func is _aten.from_file.default:
        return torch.empty(keywords.get("size") or args[2], dtype=keywords["dtype"])
    if func is GROUPED_PRODUCT:
        # Torch's rule for shapes only allows bfloat16, but the operator computes every precision.
        return args[0].new_empty(grouped_sizes(args[0], args[1], grouped_offsets(args, keywords))[0])
    return func(*args, **keywords)


def _key(tensor: Tensor, device: torch.device | None = None) -> Key:
    parts = tuple(tensor.shape), tensor.stride(), tensor.dtype, device or tensor.device
    return _keys.setdefault(parts, Key(*parts))


def _stand_in(key: Key, device: torch.device) -> Tensor:
    return torch.empty_strided(key.sizes, key.strides, dtype=key.dtype, device=device)


def _one(dtype: torch.dtype) -> bool | int | float:
    return True if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1
