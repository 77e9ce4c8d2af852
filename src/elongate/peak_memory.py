"""Peak memory between two calls: of the CUDA allocator on a GPU, of the whole process elsewhere."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new measurement, because several runs of a sweep share one process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak since `reset_peak_memory`, or since the start of the process where that cannot reset it (macOS)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes, and cannot reset
