"""What Triton's interpreter lacks to run Liger's kernels on a CPU: floats as arguments, and functions of CUDA's library.

Import it only with TRITON_INTERPRET=1, which must be set before Triton is imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl
from liger_kernel.ops import geglu, rms_norm
from triton.runtime import interpreter

_convert = interpreter._implicit_cvt


@triton.jit
def _rsqrt(x):  # type: ignore[no-untyped-def]  # Triton would read the annotations
    return 1 / tl.sqrt(x)


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    return 2 * tl.sigmoid(2 * x) - 1


def _converted(value: Any) -> Any:
    if isinstance(value, float):
        return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)
    return _convert(value)


def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds what is missing until the end of the test."""
    monkeypatch.setattr(interpreter, "_implicit_cvt", _converted)
    monkeypatch.setattr(rms_norm, "rsqrt", _rsqrt)
    monkeypatch.setattr(geglu, "tanh", _tanh)
