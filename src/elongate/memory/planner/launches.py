"""Launches of Triton kernels in a dry run: they are no operators of torch and cannot run on tensors without numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from torch import Tensor


@contextmanager
def counted_launches(count: Callable[[int], None]) -> Iterator[None]:
    """Call `count` with the bytes of its tensors instead of running a kernel.

    A kernel writes into tensors that torch allocated, so the memory of the step is complete without it.
    """

    def launch(kernel: Any, grid: Any) -> Callable[..., None]:
        def run(*args: Any, **keywords: Any) -> None:
            tensors = [value for value in (*args, *keywords.values()) if isinstance(value, Tensor)]
            count(sum(tensor.numel() * tensor.element_size() for tensor in tensors))

        return run

    triton = sys.modules.get("triton.runtime.jit")
    with nullcontext() if triton is None else patch.object(triton.KernelInterface, "__getitem__", launch):
        yield
