"""AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101): torch's fused kernel, or torchao's for weights in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.training.optimizer.optimizer import Optimizer, check_beta

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """AdamW for all parameters."""

    lr: float = 5e-4
    beta1: float = 0.9  # decay of the mean of gradients, in [0, 1)
    beta2: float = 0.95  # decay of the mean of squared gradients, in [0, 1)

    word: ClassVar[str] = "adamw"
    rounds_stochastically: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_beta("beta1", self.beta1)
        check_beta("beta2", self.beta2)

    def build(self, network: nn.Module) -> list[TorchOptimizer]:
        import torch

        from elongate.training.optimizer.eight_bit import eight_bit_adamw

        parameters = [p for p in network.parameters() if p.requires_grad]
        groups = self.decay_groups(parameters)
        if any(p.dtype is torch.bfloat16 for p in parameters):
            return [eight_bit_adamw(groups, self.lr, (self.beta1, self.beta2))]
        return [torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)]
