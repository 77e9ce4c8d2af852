"""LoRA⁺ of LongLoRA (Chen et al. 2023, arXiv:2309.12307, section 3.3): LoRA, with embeddings and norms trained in full.

Embeddings and norms are under 2% of the parameters of a large model and close most of the gap to
full training at long lengths. A head that shares the embedding's weights is trained with it; a
separate head is not. This is not LoRA+ (arXiv:2402.12354), which gives A and B two learning rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.tuning.lora import Lora

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class LoraPlus(Lora):
    """LoRA, with embeddings and norms trained in full."""

    word: ClassVar[str] = "lora_plus"

    def apply(self, model: LanguageModel, seed: int) -> None:
        from torch import nn

        super().apply(model, seed)
        for module in model.network.modules():
            # Every architecture has its own norm classes; only their names are alike.
            if isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower():
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)
