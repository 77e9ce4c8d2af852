"""Optimizers turn gradients into steps. Weight decay acts on matrices, not on norms and biases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import require

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """The configuration of an optimizer."""

    lr: float  # peak learning rate of the extension, above 0
    weight_decay: float = 0.1  # of matrices, at least 0

    word: ClassVar[str]
    rounds_stochastically: ClassVar[bool] = False  # so that weights in bfloat16 learn from small updates

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "must be above 0", "use {key}=0.001")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must be at least 0", "use {key}=0.1")

    @abstractmethod
    def build(self, network: nn.Module) -> list[TorchOptimizer]:
        """Returns torch optimizers that together contain every trained parameter once."""

    def step_size(self, rate: float, step: int) -> float:
        """Returns the learning rate that the optimizer applies when it is given `rate` for its step of this number, from 1."""
        return rate

    def decay_groups(self, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        """Returns parameter groups of matrices, which decay, and vectors, which do not."""
        matrices = [p for p in parameters if p.ndim >= 2]
        vectors = [p for p in parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


def check_beta(name: str, value: float) -> None:
    """Raises `ConfigError` for a decay rate outside [0, 1)."""
    require(0 <= value < 1, name, value, "must be in [0, 1)", "use {key}=0.9")
