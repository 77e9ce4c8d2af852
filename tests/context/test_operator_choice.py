"""Which of torch's attention operators computes a block."""

from __future__ import annotations

import pytest
import torch

from elongate.context.attention.kernel import operators
from elongate.context.attention.kernel.operators import operator_name
from elongate.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("hopper", "device", "dtype", "dim", "length", "has_bias", "name"),
    [
        (True, CPU, FP32, 64, 8192, False, "flash"),
        (True, CUDA, BF16, 64, 8192, False, "cudnn"),
        (True, CUDA, BF16, 128, 2048, False, "cudnn"),
        (True, CUDA, BF16, 64, 1024, False, "flash"),  # as fast, and without preparation
        (True, CUDA, BF16, 64, 8200, False, "flash"),  # a document
        (True, CUDA, BF16, 256, 8192, False, "flash"),
        (True, CUDA, BF16, 64, 8192, True, "flash"),  # slopes
        (False, CUDA, BF16, 64, 8192, False, "flash"),
        (True, CUDA, FP32, 64, 8192, False, "plain"),
        (True, CUDA, BF16, 60, 8192, False, "plain"),
        (True, CUDA, BF16, 256, 8192, True, "plain"),
        (True, CUDA, BF16, 288, 8192, False, "plain"),
    ],
)
def test_the_fastest_operator_that_can_compute_a_block(
    hopper: bool,
    device: torch.device,
    dtype: torch.dtype,
    dim: int,
    length: int,
    has_bias: bool,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "_prefers_cudnn", lambda _: hopper)
    assert operator_name(device, dtype, dim, length, has_bias) == name


@pytest.mark.parametrize("forced", ["flash", "cudnn", "plain"])
def test_a_choice_can_be_forced(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELONGATE_ATTENTION", forced)
    assert operator_name(CUDA, BF16, 64, 1000, False) == forced


@pytest.mark.parametrize(
    ("forced", "device", "dtype", "dim", "has_bias", "message"),
    [
        ("fast", CPU, FP32, 64, False, "ELONGATE_ATTENTION=fast: must be one of flash, cudnn, plain; unset the variable"),
        ("cudnn", CPU, FP32, 64, False, "cannot compute heads of 64 dimensions in float32 on cpu; unset"),
        ("cudnn", CUDA, BF16, 256, False, "cannot compute heads of 256 dimensions in bfloat16 on cuda; unset"),
        ("cudnn", CUDA, BF16, 64, True, "cannot compute heads of 64 dimensions with slopes in bfloat16 on cuda; unset"),
        ("flash", CUDA, FP32, 64, False, "cannot compute heads of 64 dimensions in float32 on cuda; unset"),
    ],
)
def test_a_choice_that_cannot_compute_is_refused(
    forced: str, device: torch.device, dtype: torch.dtype, dim: int, has_bias: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELONGATE_ATTENTION", forced)
    with pytest.raises(ConfigError) as caught:
        operator_name(device, dtype, dim, 4096, has_bias)
    assert message in str(caught.value)
