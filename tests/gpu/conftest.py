"""Tests that need a CUDA device: `python -m pytest -m gpu tests/gpu`. Without `-m gpu`, tests/conftest.py hides all devices."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def card() -> torch.device:
    """The device under test."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and `-m gpu`")
    return torch.device("cuda")
