"""What measuring costs: seconds, FLOPs and the most memory that the process held meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made")


@dataclass(frozen=True)
class Cost:
    seconds: float
    flops: int  # of matrix products and attention
    peak_memory_bytes: int  # of the process; on a GPU, of its allocator


def with_cost(work: Callable[[], Made], device: torch.device) -> tuple[Made, Cost]:
    """What the work comes to, and what it took."""
    import torch
    from torch._library.custom_ops import OPDEFS
    from torch.utils._python_dispatch import TorchDispatchMode

    from elongate.memory.rehearsal import flops_of
    from elongate.training.peak_memory import peak_memory_bytes, reset_peak_memory

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

    reset_peak_memory(device)
    began = perf_counter()
    with Counting() as counting:
        made = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return made, Cost(perf_counter() - began, counting.flops, peak_memory_bytes(device))
