"""What a measurement costs: seconds, FLOPs and the peak memory of the process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """The cost of one of several samples that were measured together."""

    seconds: float
    flops: int  # of matrix products and attention
    peak_memory_bytes: int  # of the process; on a GPU, of its allocator


class Meter:
    """Times the work, and counts the FLOPs of one sample of each shape separately, because counting takes time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flops: dict[Hashable, int] = {}

    def run(self, work: Callable[[slice], Result], count: int, shape: Hashable) -> tuple[Result, Cost]:
        """Return the result of the work on `count` samples of a shape, and the cost of each; `work` gets a slice."""
        import torch

        from elongate.peak_memory import peak_memory_bytes, reset_peak_memory

        if shape not in self._flops:
            self._flops[shape] = _count_flops(lambda: work(slice(1)))
        reset_peak_memory(self._device)
        began = perf_counter()
        result = work(slice(count))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return result, Cost((perf_counter() - began) / count, self._flops[shape], peak_memory_bytes(self._device))


def _count_flops(work: Callable[[], object]) -> int:
    from elongate.memory.planner.operators import FlopCounter

    with FlopCounter() as counter:
        work()
    return counter.flops
