"""Whether operators are counted, as in the dry runs of the planner."""

from __future__ import annotations

import torch


def is_counted() -> bool:
    """Return whether a dispatch mode sees every operator. Kernels that are no operators of torch must not run then."""
    return torch._C._len_torch_dispatch_stack() > 0
