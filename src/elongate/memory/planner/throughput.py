"""The speed of this device, measured in about a second with the operators and shapes in which a step spends its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from elongate.memory.planner.dry_run import Call, Shape
from elongate.memory.planner.operators import flops_of

if TYPE_CHECKING:
    from elongate.memory.planner.dry_run import Work

_SECONDS = 0.02  # shortest duration of a measurement
_SHORTEST = 1e-4  # seconds; process_time can return 0 for calls of microseconds


def seconds_of(work: Work, device: torch.device) -> float:
    """Seconds of a step with this work."""
    return (
        sum(flops / _rate(call, device) for call, flops in work.flops.items())
        + work.moved / _bandwidth(device)
        + work.calls * _overhead(device)
    )


@lru_cache
def _rate(call: Call, device: torch.device) -> float:
    """FLOPs per second of an operator."""

    def build(value: Any) -> Any:
        if isinstance(value, Shape):
            return (torch.randn if value.dtype.is_floating_point else torch.zeros)(value.sizes, dtype=value.dtype, device=device)
        return value

    arguments, keywords = tuple(map(build, call.arguments)), {key: build(value) for key, value in call.keywords}
    with torch.no_grad():
        result = call.function(*arguments, **keywords)
        flops = flops_of(call.function, arguments, keywords, result)
        return flops / _seconds(lambda: call.function(*arguments, **keywords), device)


@lru_cache
def _bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a trivial operator that allocates its result, as in a step."""
    tensor = torch.ones(1 << 22, device=device)
    return 2 * tensor.numel() * tensor.element_size() / _seconds(lambda: tensor * 2, device)


@lru_cache
def _overhead(device: torch.device) -> float:
    """Seconds of a call that computes nothing."""
    tensor = torch.ones((), device=device)
    return _seconds(lambda: [tensor * 2 for _ in range(100)], device) / 100


def _seconds(act: Callable[[], Any], device: torch.device) -> float:
    """Return the best of several timings after one warm-up call.

    Very short calls are repeated until the clock can resolve them.
    """
    act()
    timings: list[float] = []
    spent, times = 0.0, 1
    while len(timings) < 2 or spent < _SECONDS:
        began = _now(device)
        for _ in range(times):
            act()
        elapsed = _now(device) - began
        spent += elapsed
        if elapsed < _SHORTEST:
            times *= 2
        else:
            timings.append(elapsed / times)
    return min(timings)


def _now(device: torch.device) -> float:
    """The clock: processor time on a CPU, because other programs may use the processor meanwhile."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()
