"""The speed of this device, measured in less than a second with the operators and shapes in which a step spends its time."""

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
_ALL_SECONDS = 0.6  # after which no further operator is measured
_SHORTEST = 1e-4  # seconds; process_time can return 0 for calls of microseconds

_rates: dict[torch.device, dict[Call, float]] = {}  # measured FLOPs per second
_spent: dict[torch.device, float] = {}  # seconds of measuring


def seconds_of(work: Work, device: torch.device) -> float:
    """Return the seconds of a step with this work."""
    # The operators with the most work are measured first.
    computed = sum(flops / _rate(call, device) for call, flops in work.flops.most_common())
    computed += work.moved / _bandwidth(device)
    started = work.calls * _overhead(device)
    # A card computes while the processor starts its next operators.
    return max(computed, started) if device.type == "cuda" else computed + started


def flops_of_call(call: Call) -> int:
    """Return the FLOPs of a call with the sizes that it states."""
    arguments, keywords = _built(call, torch.device("meta"))
    return flops_of(call.function, arguments, keywords, call.function(*arguments, **keywords))


def _rate(call: Call, device: torch.device) -> float:
    """Return the FLOPs per second of an operator; once the time is spent, those of a similar one."""
    known = _rates.setdefault(device, {})
    if call not in known:
        if _spent.get(device, 0.0) > _ALL_SECONDS:
            return _similar(call, known)
        began = time.perf_counter()
        known[call] = _measured_rate(call, device)
        _spent[device] = _spent.get(device, 0.0) + time.perf_counter() - began
    return known[call]


def _similar(call: Call, known: dict[Call, float]) -> float:
    same = [rate for other, rate in known.items() if other.function is call.function] or list(known.values())
    return sum(same) / len(same)


def _measured_rate(call: Call, device: torch.device) -> float:
    arguments, keywords = _built(call, device)
    with torch.no_grad():
        result = call.function(*arguments, **keywords)
        flops = flops_of(call.function, arguments, keywords, result)
        return flops / _seconds(lambda: call.function(*arguments, **keywords), device)


def _built(call: Call, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with tensors of their shapes."""

    def build(value: Any) -> Any:
        if isinstance(value, Shape):
            return (torch.randn if value.dtype.is_floating_point else torch.zeros)(value.sizes, dtype=value.dtype, device=device)
        return value

    return tuple(map(build, call.arguments)), {key: build(value) for key, value in call.keywords}


@lru_cache
def _bandwidth(device: torch.device) -> float:
    """Return the bytes that a trivial operator reads and writes per second while allocating its result, as in a step."""
    tensor = torch.ones(1 << 22, device=device)
    return 2 * tensor.numel() * tensor.element_size() / _seconds(lambda: tensor * 2, device)


@lru_cache
def _overhead(device: torch.device) -> float:
    """Return the seconds of a call that computes nothing."""
    tensor = torch.ones((), device=device)
    return _seconds(lambda: [tensor * 2 for _ in range(100)], device) / 100


def _seconds(act: Callable[[], Any], device: torch.device) -> float:
    """Return the best of several timings after one warm-up call.

    Very short calls are repeated until the clock can resolve them.
    """
    act()
    timings: list[float] = []
    spent, times = 0.0, 1
    while not timings or spent < _SECONDS:
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
    """Return the clock: processor time on a CPU, because other programs may use the processor meanwhile."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()
