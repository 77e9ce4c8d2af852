"""`elongate-env`: versions, device, threads and settings, for a bug report. Prints no secrets."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from elongate import __version__

# Variables with these beginnings change what the program does.
_PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_", "CUDA_", "PYTORCH_", "TORCH_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "HYDRA_")
_OTHERS = ("MALLOC_MMAP_THRESHOLD_", "WORLD_SIZE", "PYTHONPATH", "PYTHONIOENCODING", "LANG", "LC_ALL", "MPLCONFIGDIR")
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?|AUTH)(_|$)", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=//)[^/@\s]+@")  # user:password@ of an address


def describe_environment() -> Iterator[str]:
    """The lines of the report."""
    yield f"elongate {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield "packages: " + ", ".join(dict.fromkeys(_packages()))
    yield from _devices()
    yield f"output: {sys.stdout.encoding}, {'terminal' if sys.stdout.isatty() else 'no terminal'}"
    shown = [f"{name}={_public(name, value)}" for name, value in sorted(os.environ.items()) if _is_relevant(name)]
    yield "variables: " + (", ".join(shown) or "none")


def _packages() -> Iterator[str]:
    for requirement in requires("elongate") or []:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        optional = "extra ==" in requirement
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            if not optional:
                yield f"{name} missing"


def _devices() -> Iterator[str]:
    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"CPU: {allowed} of {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {torch.backends.cpu.get_cpu_capability()}"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.1f} GiB, CUDA {torch.version.cuda}"
    if torch.cuda.device_count() == 0:
        yield f"CUDA: no device (torch built for CUDA {torch.version.cuda})" if torch.version.cuda else "CUDA: not in this build of torch"


def _is_relevant(name: str) -> bool:
    return name.startswith(_PREFIXES) or name in _OTHERS


def _public(name: str, value: str) -> str:
    """The value without secrets: keys and tokens are hidden, and logins in addresses."""
    return "(hidden)" if _SECRET.search(name) else _LOGIN.sub("", value)
