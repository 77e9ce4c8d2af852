"""How fast this device works, measured in about a second with the operators and the shapes that a step spends its time in."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from elongate.memory.planner.dry_run import Call, Shape, flops_of

if TYPE_CHECKING:
    from elongate.memory.planner.dry_run import Work

_SECONDS = 0.02  # that a measurement takes at least
_SHORTEST = 1e-4  # seconds; on a busy machine a call of microseconds has been seen to take none


def seconds_of(work: Work, device: torch.device) -> float:
    """What a step with this work takes."""
    return (
        sum(flops / _rate(call, device) for call, flops in work.flops.items())
        + work.moved / _bandwidth(device)
        + work.calls * _overhead(device)
    )


@lru_cache
def _rate(call: Call, device: torch.device) -> float:
    """FLOPs per second of an operator."""

    def made(value: Any) -> Any:
        if isinstance(value, Shape):
            return (torch.randn if value.dtype.is_floating_point else torch.zeros)(value.sizes, dtype=value.dtype, device=device)
        return value

    arguments, keywords = tuple(map(made, call.arguments)), {key: made(value) for key, value in call.keywords}
    with torch.no_grad():
        result = call.function(*arguments, **keywords)
        flops = flops_of(call.function, arguments, keywords, result)
        return flops / _seconds(lambda: call.function(*arguments, **keywords), device)


@lru_cache
def _bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of an operator that does next to nothing with them. Its result is new memory, as in a step."""
    tensor = torch.ones(1 << 22, device=device)
    return 2 * tensor.numel() * tensor.element_size() / _seconds(lambda: tensor * 2, device)


@lru_cache
def _overhead(device: torch.device) -> float:
    """Seconds of a call that computes nothing."""
    tensor = torch.ones((), device=device)
    return _seconds(lambda: [tensor * 2 for _ in range(100)], device) / 100


def _seconds(act: Callable[[], Any], device: torch.device) -> float:
    """The quickest of a few, after a first. What is too short for the clock is done several times in a row."""
    act()
    found: list[float] = []
    spent, times = 0.0, 1
    while len(found) < 2 or spent < _SECONDS:
        began = _now(device)
        for _ in range(times):
            act()
        took = _now(device) - began
        spent += took
        if took < _SHORTEST:
            times *= 2
        else:
            found.append(took / times)
    return min(found)


def _now(device: torch.device) -> float:
    """On a CPU the time that its threads have worked: other programs may have the processor meanwhile."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()
