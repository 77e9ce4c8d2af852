"""LoRA (Hu et al. 2021, arXiv:2106.09685), by the peft library: W x becomes W x + alpha/rank · B A x, and only A and B are trained.

At long lengths LoRA alone stays behind full training (LongLoRA, Chen et al. 2023, arXiv:2309.12307, table 2): there use lora_plus.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import require
from elongate.tuning.tuning import Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Lora(Tuning):
    rank: int = 8  # of the update of a matrix, at least 1
    alpha: float = 16.0  # the update is scaled by alpha / rank; above 0
    dropout: float = 0.0  # of what A reads, in [0, 1)
    targets: list[str] | None = None  # ends of the names of linear layers; null: those of attention

    word: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        require(self.rank > 0, "rank", self.rank, "must be at least 1", "use {key}=8")
        require(self.alpha > 0, "alpha", self.alpha, "must be above 0", "use {key}=16")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "must be in [0, 1)", "use {key}=0")
        require(self.targets != [], "targets", "[]", "names no layer", "use {key}=null for those of attention, or tuning=full")

    def apply(self, model: LanguageModel, seed: int) -> None:
        import torch
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D

        layers = self.layers(model.network)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(layers),
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        )
        with torch.random.fork_rng(devices=[]):
            # Not the seed itself, which a fresh network was drawn from: A would repeat its weights.
            torch.manual_seed(-1 - seed)
            inject_adapter_in_model(config, model.network)

    def merge(self, model: LanguageModel) -> None:
        network = model.network
        for name, layer in _adapted(network).items():
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
        del network.peft_config
        network.requires_grad_(True)

    def adapters(self, model: LanguageModel) -> dict[str, Any]:
        names = list(_adapted(model.network))
        # Their names within a layer, which are targets too: attn.c_proj and not mlp.c_proj.
        targets = sorted({re.sub(r".*\.\d+\.", "", name) for name in names})
        return {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout, "targets": targets, "layers": len(names)}

    def layers(self, network: PreTrainedModel) -> dict[str, nn.Module]:
        """The linear layers that the targets name. Raises `ConfigError` for a target that names none."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        # The head is applied apart from the network, by its weight: an update beside it would not be seen.
        head = network.get_output_embeddings()
        linear = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}
        if self.targets is None:
            attention = tuple(f"{name}." for name, m in network.named_modules() if "attention" in type(m).__name__.lower())
            found = {name: layer for name, layer in linear.items() if name.startswith(attention)}
            rule = f"finds no linear layer within the attention of a {network.config.model_type}"
            require(found != {}, "targets", None, rule, _nearest("", linear))
            return found
        for target in self.targets:
            known = any(f".{name}".endswith(f".{target}") for name in linear)
            require(known, "targets", target, "no linear layer below the head has a name that ends so", _nearest(target, linear))
        ends = tuple(f".{target}" for target in self.targets)
        return {name: layer for name, layer in linear.items() if f".{name}".endswith(ends)}


def _adapted(network: PreTrainedModel) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def _nearest(target: str, names: dict[str, nn.Module]) -> str:
    """What may have been meant, else what there is."""

    def ends(parts: int) -> list[str]:
        return sorted({".".join(name.split(".")[-parts:]) for name in names})

    if close := difflib.get_close_matches(target, ends(target.count(".") + 1), n=1):
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(ends(1))}"
