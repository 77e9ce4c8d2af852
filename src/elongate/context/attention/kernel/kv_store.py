"""Storage between two passes over a sequence: keys, values, their gradients and attention outputs.

Everything is stored per call of attention and not per module: some networks call a module several times in a pass,
because two attentions share it (DiffLlama) or because its layer is repeated (HRM).
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elongate.context.attention.kernel.blocks import Range
from elongate.errors import RunError

Call = tuple[nn.Module, int]  # an attention module, and how often it was called before in the same pass
Output = tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads length"]]  # and log-sum-exp


class TokenTensor(ABC):
    """A tensor batch × heads × length × dim that is read and written by ranges of tokens; initially zero."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Float[Tensor, "batch heads part dim"]:
        """Returns tokens start:stop on the compute device. Call `update` after changing them in place."""

    @abstractmethod
    def write(self, start: int, stop: int, values: Float[Tensor, "batch heads part dim"]) -> None:
        """Overwrites tokens start:stop."""

    @abstractmethod
    def update(self, start: int, stop: int, values: Float[Tensor, "batch heads part dim"]) -> None:
        """Stores what `read` returned for the same tokens, after it was changed in place."""


class InMemory(TokenTensor):
    """Held on the compute device."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._tensor = torch.zeros(shape, dtype=dtype, device=device)

    def read(self, start: int, stop: int) -> Tensor:
        return self._tensor[:, :, start:stop]

    def write(self, start: int, stop: int, values: Tensor) -> None:
        self._tensor[:, :, start:stop] = values

    def update(self, start: int, stop: int, values: Tensor) -> None:
        pass  # `read` returned a view


class OnDisk(TokenTensor):
    """Held in a file, mapped into memory only while part of it is read or written."""

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        needed, free = prod(shape) * dtype.itemsize, shutil.disk_usage(file.parent).free
        if needed > free:
            # Writing to a mapped file on a full disk would end the process with SIGBUS.
            sizes = f"{needed:,} more bytes are needed in {file.parent}, {free:,} are free"
            raise RunError(f"memory.on_disk=true: {sizes}; set TMPDIR to a larger disk")
        self._file, self._shape, self._dtype, self._device = file, shape, dtype, device

    def read(self, start: int, stop: int) -> Tensor:
        return self._map()[:, :, start:stop].to(self._device)

    def write(self, start: int, stop: int, values: Tensor) -> None:
        self._map()[:, :, start:stop] = values

    def update(self, start: int, stop: int, values: Tensor) -> None:
        if self._device.type != "cpu":  # on a CPU `read` returned a view of the file
            self.write(start, stop, values)

    def _map(self) -> Tensor:
        # Unmapped when the last tensor that refers to it is freed.
        return torch.from_file(str(self._file), shared=True, size=prod(self._shape), dtype=self._dtype).view(self._shape)


@dataclass
class Past:
    """Keys and values of a layer for the whole sequence, and their gradients from later chunks."""

    length: int  # of the sequence
    keys: TokenTensor
    values: TokenTensor
    grad_keys: TokenTensor | None = None
    grad_values: TokenTensor | None = None


class StopForward(Exception):
    """Ends a forward pass early: everything that it is run for is stored."""


@dataclass
class KeyValueStore:
    """What one sequence stores for each call of attention."""

    past: dict[Call, Past] | None = None  # None: the whole sequence is computed in one pass
    outputs: dict[Call, dict[Range, Output]] | None = None  # by chunk; None: attention is recomputed
    last: Call | None = None  # raise `StopForward` when its keys and values are stored
    _num_calls: Counter[nn.Module] = field(default_factory=Counter)  # in this pass

    def start_pass(self) -> None:
        """Numbers the calls of attention from 0. Call before every pass through all layers."""
        self._num_calls = Counter()

    def next_call(self, module: nn.Module) -> Call:
        """The call of attention that begins."""
        number = self._num_calls[module]
        self._num_calls[module] += 1
        return module, number

    def recomputation(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The contexts of a layer and of its recomputation, which numbers its calls as the layer did.

        The argument `context_fn` of `torch.utils.checkpoint.checkpoint`.
        """
        return nullcontext(), self._numbered_from(self._num_calls.copy())

    @contextmanager
    def _numbered_from(self, num_calls: Counter[nn.Module]) -> Iterator[None]:
        present, self._num_calls = self._num_calls, num_calls
        try:
            yield
        finally:  # torch ends a recomputation by an exception as soon as it has all tensors
            self._num_calls = present

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> TokenTensor:
        """Returns zeros."""
        return InMemory(shape, dtype, device)

    def get_past(self, call: Call, key: Tensor, value: Tensor, length: int) -> Past:
        """Keys and values of a call; allocated for `length` tokens in the first pass."""
        assert self.past is not None
        if call not in self.past:
            tensors = (self.allocate((*x.shape[:2], length, x.shape[-1]), x.dtype, x.device) for x in (key, value))
            self.past[call] = Past(length, *tensors)
        return self.past[call]

    def stop_at_last_layer(self) -> None:
        """Makes later passes end with `StopForward` at the last call. Call after one pass through all layers."""
        assert self.past
        self.last = next(reversed(self.past))

    def get_output(self, call: Call, chunk: Range) -> Output | None:
        """The stored output of a call for a chunk, if any."""
        return None if self.outputs is None else self.outputs.get(call, {}).get(chunk)

    def store_output(self, call: Call, chunk: Range, length: int, output: Output) -> None:
        """Stores the output of a call for a chunk of a sequence of `length` tokens, if outputs are stored."""
        if self.outputs is not None:
            self.outputs.setdefault(call, {})[chunk] = output

    def drop_outputs(self, chunk: Range) -> None:
        """Frees the outputs of a chunk."""
        for outputs in (self.outputs or {}).values():
            outputs.pop(chunk, None)


@dataclass
class KeyValueStoreOnDisk(KeyValueStore):
    """A store in files, so that memory only contains the layer that is being computed."""

    folder: Path = field(kw_only=True)
    _num_files: int = 0
    _whole: dict[Call, tuple[TokenTensor, TokenTensor]] = field(default_factory=dict)  # outputs of all chunks
    _stored: set[tuple[Call, Range]] = field(default_factory=set)

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> TokenTensor:
        self._num_files += 1
        return OnDisk(self.folder / str(self._num_files), shape, dtype, device)

    def get_output(self, call: Call, chunk: Range) -> Output | None:
        if (call, chunk) not in self._stored:
            return None
        # Copied: these tensors live until the backward pass reaches the layer, and a view would keep the file mapped.
        out, lse = (tensor.read(*chunk).clone() for tensor in self._whole[call])
        return out, lse[..., 0]

    def store_output(self, call: Call, chunk: Range, length: int, output: Output) -> None:
        if self.outputs is None:
            return
        parts = output[0], output[1][..., None]
        if call not in self._whole:
            out, lse = (self.allocate((*x.shape[:2], length, x.shape[-1]), x.dtype, x.device) for x in parts)
            self._whole[call] = out, lse
        for tensor, part in zip(self._whole[call], parts, strict=True):
            tensor.write(*chunk, part)
        self._stored.add((call, chunk))
