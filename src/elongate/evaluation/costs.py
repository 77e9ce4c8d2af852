"""What measuring costs: seconds, FLOPs and the most memory that the process held meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made")


@dataclass(frozen=True)
class Cost:
    """Of one of several samples that were measured together."""

    seconds: float
    flops: int  # of matrix products and attention
    peak_memory_bytes: int  # of the process; on a GPU, of its allocator


class Meter:
    """Times work as it is, and counts that of one sample of each shape apart: counting takes time itself."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flops: dict[Hashable, int] = {}

    def measured(self, work: Callable[[slice], Made], count: int, shape: Hashable) -> tuple[Made, Cost]:
        """What the work on `count` samples of a shape comes to, and what each of them took. `work` is given which of them to work on."""
        import torch

        from elongate.peak_memory import peak_memory_bytes, reset_peak_memory

        if shape not in self._flops:
            self._flops[shape] = _flops_of(lambda: work(slice(1)))
        reset_peak_memory(self._device)
        began = perf_counter()
        made = work(slice(count))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return made, Cost((perf_counter() - began) / count, self._flops[shape], peak_memory_bytes(self._device))


def _flops_of(work: Callable[[], object]) -> int:
    from torch._library.custom_ops import OPDEFS
    from torch.utils._python_dispatch import TorchDispatchMode

    from elongate.memory.planner.dry_run import flops_of

    class Counting(TorchDispatchMode):
        flops = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
            keywords = kwargs or {}
            # An operator that is written in Python is made of others.
            if (written := OPDEFS.get(func._schema.name)) is not None:
                with self:
                    return written._init_fn(*args, **keywords)
            result = func(*args, **keywords)
            self.flops += flops_of(func, args, keywords, result)
            return result

    with Counting() as counting:
        work()
    return counting.flops
