"""The memory that is free for training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that the process can still allocate on the device, within the limits of its container or job."""
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min([_machine_free_bytes(), *_group_free_bytes()])


def format_bytes(size: float) -> str:
    """Format a size with a binary unit."""
    if size < 2**20:
        return f"{size} bytes"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _machine_free_bytes() -> int:
    if not (_PROC / "meminfo").exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 1024 * _entries(_PROC / "meminfo")["MemAvailable:"]


def _group_free_bytes() -> Iterator[int]:
    """Free bytes of each control group of the process; the kernel can reclaim idle file pages."""
    if not (_PROC / "self/cgroup").exists():
        return
    for line in (_PROC / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        first = controllers == "memory"
        if not first and controllers:
            continue
        top, limit, used = (
            (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes") if first else (_CGROUP, "memory.max", "memory.current")
        )
        own = top / path.strip("/")
        for group in (own, *own.parents):
            if top in (group, *group.parents) and (group / limit).exists() and (group / used).exists():
                text = (group / limit).read_text().strip()
                if text != "max":
                    idle = _entries(group / "memory.stat").get("inactive_file", 0)
                    yield max(0, int(text) - int((group / used).read_text()) + idle)


def _entries(file: Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for line in file.read_text().splitlines() if len(words := line.split()) > 1}
