"""Layer inputs in pinned memory of the host, copied behind the computation on a stream of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elongate.errors import ConfigError
from elongate.memory.planner.free_memory import format_bytes, free_bytes
from elongate.models.counted import is_counted

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

_LEAST = 2**20  # bytes of a tensor that is worth a copy
Handle = int  # of a tensor on the host


@contextmanager
def offloaded(device: torch.device) -> Iterator[None]:
    """Keep the large tensors that autograd saves in this context on the host until the backward pass needs them."""
    copies = _HostCopies(device)
    with torch.autograd.graph.saved_tensors_hooks(copies.save, copies.load):
        yield
    copies.finish()


def check_host(model: LanguageModel, tokens: int) -> None:
    """Raise `ConfigError` if the layer inputs of a pass over `tokens` tokens cannot be kept on the host."""
    from elongate.memory.recomputation import layers_of
    from elongate.models.precision import compute_dtype

    if model.device.type != "cuda":
        raise ConfigError(
            "offload", "host", f"keeps layer inputs in the memory that device={model.device.type} uses anyway", "use {key}=none"
        )
    needed = len(layers_of(model.network)) * tokens * model.config.hidden_size * compute_dtype(model.network, model.precision).itemsize
    if model.planned_device is None and needed > (free := free_bytes(torch.device("cpu"))):
        rule = f"layer inputs of {tokens:,} tokens take {format_bytes(needed)}, and {format_bytes(free)} of the host's memory are free"
        raise ConfigError("offload", "host", rule, "use shorter sequences or memory=stream")


class _HostCopies:
    """Copies in both directions. The next tensor that the backward pass will need is fetched before it asks.

    The computing stream waits for each copy, so memory is reused in the order of the stream. Python runs far ahead of the
    card: without the wait, it would allocate new memory for every tensor.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # A dry run copies nothing.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and not is_counted() else None
        self._on_host: list[Tensor] = []
        self._leaving: Tensor | None = None  # the tensor that is being copied to the host
        self._fetched: dict[Handle, Tensor] = {}  # copies that are under way

    def save(self, tensor: Tensor) -> Tensor | Handle:
        """What autograd keeps instead of the tensor."""
        if isinstance(tensor, nn.Parameter) or tensor.device.type != self._device.type or tensor.nbytes < _LEAST:
            return tensor
        self.finish()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._stream is not None)
        self._copy(host, tensor)
        self._leaving = tensor
        self._on_host.append(host)
        return len(self._on_host) - 1

    def load(self, saved: Tensor | Handle) -> Tensor:
        """The tensor that autograd kept."""
        if isinstance(saved, Tensor):
            return saved
        if saved not in self._fetched:
            self._fetch(saved)
        self._wait()
        tensor = self._fetched.pop(saved)
        if saved > 0:
            self._fetch(saved - 1)
        return tensor

    def finish(self) -> None:
        """Let the computation wait for the copy to the host, whose source may be freed then."""
        if self._leaving is not None:
            self._wait()
            self._leaving = None

    def _fetch(self, handle: Handle) -> None:
        host = self._on_host[handle]
        self._fetched[handle] = torch.empty(host.shape, dtype=host.dtype, device=self._device)
        self._copy(self._fetched[handle], host)

    def _copy(self, to: Tensor, source: Tensor) -> None:
        if self._stream is None:
            to.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            to.copy_(source, non_blocking=True)

    def _wait(self) -> None:
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
