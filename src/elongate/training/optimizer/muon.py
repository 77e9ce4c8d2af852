"""Muon (Jordan et al. 2024; scaled as in Liu et al. 2025, arXiv:2502.16982) for the matrices of the layers, AdamW for other weights.

Embeddings and head are matrices too, but look-up tables: their rows are not mixed, so orthogonalizing them makes no sense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.training.optimizer.optimizer import Optimizer, check_beta

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    lr: float = 5e-4
    momentum: float = 0.95  # of the matrices, in [0, 1)
    beta1: float = 0.9  # of AdamW
    beta2: float = 0.95  # of AdamW

    word: ClassVar[str] = "muon"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("momentum", "beta1", "beta2"):
            check_beta(name, getattr(self, name))

    def build(self, network: nn.Module) -> list[TorchOptimizer]:
        import torch

        tables = {id(p) for m in network.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
        if (head := network.get_output_embeddings()) is not None:
            tables |= {id(p) for p in head.parameters()}
        parameters = [p for p in network.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.ndim == 2 and id(p) not in tables]
        chosen = {id(p) for p in matrices}
        rest = self.decay_groups([p for p in parameters if id(p) not in chosen])
        # Scaled so that an update is as large as AdamW's, and one learning rate serves both.
        muon = torch.optim.Muon(
            matrices, lr=self.lr, weight_decay=self.weight_decay, momentum=self.momentum, adjust_lr_fn="match_rms_adamw"
        )
        # With adapters there may be matrices only.
        return [muon, *([torch.optim.AdamW(rest, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)] if rest else [])]
