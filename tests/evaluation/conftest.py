"""What the tests of evaluations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def model(build_tiny: Callable[..., Any]) -> Any:
    built = build_tiny().model.build(257, seed=0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))  # a fresh network hardly attends
    built.network.double().eval()
    return built
