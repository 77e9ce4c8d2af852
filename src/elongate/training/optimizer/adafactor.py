"""Adafactor (Shazeer & Stern 2018, arXiv:1804.04235), as implemented in torch.

It stores the second moment of a matrix as one row and one column, so it needs almost no memory for its state. Its step
size is at most 1 / √step, even where the schedule gives more; `lr` in metrics.jsonl is the rate after this limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.errors import require
from elongate.training.optimizer.optimizer import Optimizer

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adafactor for all parameters."""

    lr: float = 1e-2  # relative: multiplied by the root mean square of each parameter, above 0
    weight_decay: float = 0.0
    beta2_decay: float = -0.8  # the second moment decays by 1 - step^beta2_decay, below 0
    clip_threshold: float = 1.0  # largest root mean square of an update, at least 1; larger ones are scaled down

    word: ClassVar[str] = "adafactor"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta2_decay < 0, "beta2_decay", self.beta2_decay, "must be below 0", "use {key}=-0.8")
        require(self.clip_threshold >= 1, "clip_threshold", self.clip_threshold, "must be at least 1", "use {key}=1")

    def step_size(self, rate: float, step: int) -> float:
        # The paper's relative step size is at most this (section 8).
        return min(rate, step**-0.5)

    def build(self, network: nn.Module) -> list[TorchOptimizer]:
        import torch

        groups = self.decay_groups([p for p in network.parameters() if p.requires_grad])
        return [torch.optim.Adafactor(groups, lr=self.lr, beta2_decay=self.beta2_decay, d=self.clip_threshold)]
