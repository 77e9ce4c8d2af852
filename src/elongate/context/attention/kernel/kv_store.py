"""What is kept of a sequence between two passes over its tokens: keys and values, their gradients, and outputs of attention."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elongate.context.attention.kernel.blocks import Range
from elongate.errors import RunError

Output = tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads length"]]


class Stored(ABC):
    """Numbers of every token, batch × heads × length × dim, zero at first."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Float[Tensor, "batch heads part dim"]:
        """Those of some tokens, on the device that computes. Who adds to them tells `update`."""

    @abstractmethod
    def write(self, start: int, stop: int, values: Float[Tensor, "batch heads part dim"]) -> None: ...

    @abstractmethod
    def update(self, start: int, stop: int, values: Float[Tensor, "batch heads part dim"]) -> None:
        """Takes back what `read` gave, changed in place."""


class InMemory(Stored):
    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._tensor = torch.zeros(shape, dtype=dtype, device=device)

    def read(self, start: int, stop: int) -> Tensor:
        return self._tensor[:, :, start:stop]

    def write(self, start: int, stop: int, values: Tensor) -> None:
        self._tensor[:, :, start:stop] = values

    def update(self, start: int, stop: int, values: Tensor) -> None:
        pass  # what was read was no copy


class OnDisk(Stored):
    """In a file, which takes memory only while some of it is read or written: what the kernel holds beyond that, it gives up at need."""

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        needed, free = prod(shape) * dtype.itemsize, shutil.disk_usage(file.parent).free
        if needed > free:
            # A mapped file has no other way to say so than to end the process.
            raise RunError(
                f"memory.on_disk=true: {needed:,} more bytes are needed in {file.parent}, {free:,} are free; set TMPDIR to a larger disk"
            )
        self._file, self._shape, self._dtype, self._device = file, shape, dtype, device

    def read(self, start: int, stop: int) -> Tensor:
        return self._mapped()[:, :, start:stop].to(self._device)

    def write(self, start: int, stop: int, values: Tensor) -> None:
        self._mapped()[:, :, start:stop] = values

    def update(self, start: int, stop: int, values: Tensor) -> None:
        if self._device.type != "cpu":  # elsewhere than there it was a copy
            self.write(start, stop, values)

    def _mapped(self) -> Tensor:
        # Unmapped with the last tensor that looks at it.
        return torch.from_file(str(self._file), shared=True, size=prod(self._shape), dtype=self._dtype).view(self._shape)


@dataclass
class Past:
    """Keys and values of a layer for the whole sequence, and the gradients that later chunks have left for them."""

    length: int  # of the sequence
    keys: Stored
    values: Stored
    grad_keys: Stored | None = None
    grad_values: Stored | None = None


class EnoughError(Exception):
    """All that a pass without gradient is for is stored."""


@dataclass
class Kept:
    """By attention module."""

    past: dict[nn.Module, Past] | None = None  # None: the whole sequence is computed at once
    outputs: dict[nn.Module, dict[Range, Output]] | None = None  # None: attention is computed again
    last: nn.Module | None = None  # when its keys and values are stored, `EnoughError` is raised

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Stored:
        """Zeros."""
        return InMemory(shape, dtype, device)

    def past_of(self, module: nn.Module, key: Tensor, value: Tensor, length: int) -> Past:
        assert self.past is not None
        if module not in self.past:
            self.past[module] = Past(length, *(self.room((*x.shape[:2], length, x.shape[-1]), x.dtype, x.device) for x in (key, value)))
        return self.past[module]

    def end_at_last_layer(self) -> None:
        """A pass that follows ends there by `EnoughError`. Called when one has come through all layers."""
        assert self.past
        self.last = next(reversed(self.past))

    def output_of(self, module: nn.Module, chunk: Range) -> Output | None:
        return None if self.outputs is None else self.outputs.get(module, {}).get(chunk)

    def keep_output(self, module: nn.Module, chunk: Range, length: int, output: Output) -> None:
        if self.outputs is not None:
            self.outputs.setdefault(module, {})[chunk] = output

    def forget_outputs(self, chunk: Range) -> None:
        for outputs in (self.outputs or {}).values():
            outputs.pop(chunk, None)


@dataclass
class KeptOnDisk(Kept):
    """All of it in files, so that memory holds the layer that is computed and no other."""

    folder: Path = field(kw_only=True)
    _number: int = 0
    _whole: dict[nn.Module, tuple[Stored, Stored]] = field(default_factory=dict)
    _known: set[tuple[nn.Module, Range]] = field(default_factory=set)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Stored:
        self._number += 1
        return OnDisk(self.folder / str(self._number), shape, dtype, device)

    def output_of(self, module: nn.Module, chunk: Range) -> Output | None:
        if (module, chunk) not in self._known:
            return None
        # Copied: the pass backward holds them until it comes to this layer, and with them would be held all that is mapped.
        out, lse = (stored.read(*chunk).clone() for stored in self._whole[module])
        return out, lse[..., 0]

    def keep_output(self, module: nn.Module, chunk: Range, length: int, output: Output) -> None:
        if self.outputs is None:
            return
        parts = output[0], output[1][..., None]
        if module not in self._whole:
            out, lse = (self.room((*x.shape[:2], length, x.shape[-1]), x.dtype, x.device) for x in parts)
            self._whole[module] = out, lse
        for stored, part in zip(self._whole[module], parts, strict=True):
            stored.write(*chunk, part)
        self._known.add((module, chunk))
