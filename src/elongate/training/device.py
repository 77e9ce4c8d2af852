"""The device that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elongate.console import warn
from elongate.errors import ConfigError, require

if TYPE_CHECKING:
    import torch


def find_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is the first CUDA device or the CPU. Raises `ConfigError`."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        rule = "there is no CUDA device that torch can use here"
        raise ConfigError("device", name, rule, "use {key}=cpu or {key}=auto")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        rule = f"there are {count} CUDA devices here, counted from 0"
        raise ConfigError("device", name, rule, f"use {{key}}=cuda:{count - 1}")
    return device


def describe_device(device: torch.device) -> str:
    """Returns the device's name and size, such as `cpu (2 threads)`."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    count = torch.get_num_threads()
    return f"{device} ({count} thread{'' if count == 1 else 's'})"


def check_precision(precision: str, device: torch.device) -> None:
    """Raises `ConfigError` for a precision that the device does not have, or that needs a package that is missing.

    Warns if a processor computes bfloat16 in software: a step may then take a hundred times as long as in float32.
    """
    import torch

    if precision == "fp32":
        return
    if precision == "bf16_pure":
        from elongate.training.optimizer.eight_bit import require_torchao

        require_torchao()
    if device.type == "cuda":
        with torch.cuda.device(device):
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        rule = f"{describe_device(device)} has no bfloat16"
        require(able, "precision", precision, rule, "use {key}=fp32, or a card of 2020 or later")
    elif not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        rule = "this processor has no instructions for bfloat16, which takes far longer than precision=fp32 here"
        warn(f"precision={precision}: {rule}")
