"""One measurement of `gpu.py`, in this process: a step of a program of `peers.py`, or a whole step that has to fit the card."""

from __future__ import annotations

import gc
import re
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import peers
from peers import OURS, Setting, Step
from processes import Failed

if TYPE_CHECKING:
    import torch

    from elongate.models.language_model import LanguageModel

WARMUP = 4096  # tokens
REPEATS = 2
LONG = 20.0  # seconds after which a step is not repeated
KERNELS = 8  # in a profile


@dataclass(frozen=True)
class Task:
    """One measurement."""

    peer: str  # a program of peers.py
    kind: str  # step, or one of CAPACITY
    shape: str
    length: int
    device: str
    profiled: bool = False

    @property
    def title(self) -> str:
        """What `--only` is compared with."""
        return f"{self.peer} {self.length}" if self.kind == "step" else f"capacity {self.kind} {self.length}"


def measurement(task: Task) -> dict[str, Any]:
    """The figures of a row. Raises `Failed` if the step does not fit the memory."""
    import torch

    figures: dict[str, Any] = {}

    def measure(step: Step, network: torch.nn.Module, **notes: Any) -> None:
        figures.update(notes)
        if task.kind == "step":
            figures.update(step_figures(task, step, network))
        else:
            figures.update(capacity_figures(task, step, network))

    setting = Setting(task.shape, task.length, "bf16", task.device)
    try:
        if task.kind == "lora":
            peers.run_ours(task.peer.removeprefix(OURS), setting, measure, "bfloat16", add_lora)
        else:
            peers.run(task.peer, setting, measure)
    except torch.OutOfMemoryError as error:
        raise Failed("does not fit the memory of the device") from error
    used = [f"{package} {version(package)}" for package in ("torch", "transformers", *peers.PACKAGES.get(task.peer, ()))]
    if task.device == "cpu":
        return figures | {"card": "CPU", "versions": ", ".join(used)}
    used += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]
    return figures | {"card": torch.cuda.get_device_name(), "versions": ", ".join(used)}


def add_lora(model: LanguageModel) -> None:
    """Makes all weights but new adapters of rank 8 constant. The adapters are float32, as their optimizer state is."""
    from elongate.tuning.lora import Lora

    Lora(rank=8).apply(model, seed=0)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()


def step_figures(task: Task, step: Step, network: torch.nn.Module) -> dict[str, Any]:
    """Time, memory, loss and gradient norm of a step, and its profile."""
    import torch

    from elongate.peak_memory import peak_memory_bytes

    device = torch.device(task.device)
    step(min(WARMUP, task.length))
    network.zero_grad(set_to_none=False)
    before = settled_bytes(device)
    loss, times = timed(step, task.length, device)
    figures: dict[str, Any] = {"loss": loss, "peak_bytes": peak_memory_bytes(device) - before, "gradient_norm": gradient_norm(network)}
    while len(times) < REPEATS and times[-1] < LONG:
        times += timed(step, task.length, device)[1]
    figures["seconds"] = min(times)
    return figures | (profile(step, task.length, device) if task.profiled else {})


def capacity_figures(task: Task, step: Step, network: torch.nn.Module) -> dict[str, Any]:
    """Time, loss and all memory of a step with AdamW. A short step before it creates the optimizer state."""
    import torch

    from elongate.peak_memory import peak_memory_bytes

    device = torch.device(task.device)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def whole(count: int) -> float:
        loss = step(count)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return loss

    whole(min(WARMUP, task.length))
    settled_bytes(device)
    loss, times = timed(whole, task.length, device)
    return {"loss": loss, "seconds": times[0], "peak_bytes": peak_memory_bytes(device)}


def settled_bytes(device: torch.device) -> int:
    """Starts a measurement of peak memory. Returns the bytes that are in use."""
    import torch

    from elongate.peak_memory import peak_memory_bytes, reset_peak_memory

    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    reset_peak_memory(device)
    return peak_memory_bytes(device)


def timed(step: Step, length: int, device: torch.device) -> tuple[float, list[float]]:
    """The loss of a step, and its seconds."""
    import torch

    began = time.perf_counter()
    loss = step(length)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return loss, [time.perf_counter() - began]


def gradient_norm(network: torch.nn.Module) -> float:
    """The norm of all gradients, summed in float64 without copies of them."""
    import torch

    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in network.parameters() if p.grad is not None]
    return torch.stack(norms).norm().item()


def profile(step: Step, length: int, device: torch.device) -> dict[str, Any]:
    """The attention operators of a step, and its kernels by time: name, calls, seconds. On a CPU, operators count as kernels."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    on_card = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with torch.profiler.profile(activities=activities) as profiled:
        step(length)
        if on_card:
            torch.cuda.synchronize()
    events = profiled.key_averages()
    # Composite operators call others with the same word in their names.
    operators = sorted({event.key.removeprefix("aten::_") for event in events if re.match(r"aten::_\w*attention", event.key)})
    field = "self_device_time_total" if on_card else "self_cpu_time_total"
    kernels = [event for event in events if event.device_type == (DeviceType.CUDA if on_card else DeviceType.CPU)]
    kernels.sort(key=lambda event: -getattr(event, field))
    whole = sum(getattr(event, field) for event in kernels) / 1e6
    return {
        "operators": operators,
        "kernels": [(event.key, event.count, getattr(event, field) / 1e6) for event in kernels[:KERNELS]],
        "kernel_seconds": whole,
    }
