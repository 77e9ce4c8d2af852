"""The share of a GPU's peak that training reaches: MFU (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

Counted is what the model needs, however it is computed: 6 FLOPs per token and trained weight, 4 per frozen weight (no
gradient of the weight), and 12 · head size per pair of query and key that attention sees in a head. Recomputed layers and
the passes that an objective needs for its targets do not count. Causal pairs are counted, where the paper counts all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from elongate.hardware import find_card
from elongate.memory.planner.step_costs import seen_pairs
from elongate.models.language_model import LanguageModel
from elongate.models.parts import head_dim, language_part, layer_config
from elongate.objectives.objective import Example


def peak_flops(device: torch.device) -> float | None:
    """Returns the peak rate of a device in FLOP/s of dense bfloat16, in every precision; None if it is not known."""
    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if card is None else card.flops


def model_flops(model: LanguageModel, length: int) -> float:
    """Returns the FLOPs of the forward and backward pass of one sequence of `length` tokens, a single document."""
    has_heads = hasattr(layer_config(model.config), "num_attention_heads")  # recurrences have none
    attention = 12 * head_dim(model.config) * seen_pairs(model, length) if has_heads else 0
    return length * flops_per_token(model) + attention


def flops_per_token(model: LanguageModel) -> float:
    """Returns the FLOPs of the matrix products with weights, forward and backward, per token."""
    head = model.head.weight
    # A table is read, not multiplied, unless it is the head too.
    tables = {id(module.weight) for module in model.network.modules() if isinstance(module, nn.Embedding)} - {id(head)}
    weights = {id(weight): weight for weight in (*language_part(model.network).parameters(), head) if id(weight) not in tables}
    matrices = [weight for weight in weights.values() if weight.ndim > 1]
    return float(sum((6 if weight.requires_grad else 4) * _used(model, weight) for weight in matrices))


def _used(model: LanguageModel, weight: torch.Tensor) -> float:
    """Returns the number of a tensor's weights that act on one token: of experts, those that the router chooses."""
    chosen = getattr(model.config, "num_experts_per_tok", None)
    return weight.numel() * (chosen / len(weight) if chosen and weight.ndim == 3 else 1.0)


@dataclass(frozen=True)
class Utilization:
    """The share of the peak in steps with sequences of one length."""

    flops: float  # of the model for one sequence
    length: int  # tokens of a sequence
    peak: float | None  # of the device, FLOP/s; None: not known

    @classmethod
    def of(cls, model: LanguageModel, length: int) -> Utilization:
        """The model on its device; call after its attention was set for the length."""
        peak = peak_flops(model.device)
        return cls(0.0 if peak is None else model_flops(model, length), length, peak)

    def figures(self, examples: list[Example], seconds: float) -> dict[str, float]:
        """Returns `mfu` of a step, from 0 to 1; nothing where the peak is not known."""
        if self.peak is None:
            return {}
        sequences = sum(len(example.inputs) * example.length for example in examples) / self.length
        return {"mfu": sequences * self.flops / seconds / self.peak}
