"""LoRA (Hu et al. 2021, arXiv:2106.09685) with the peft library: only A and B of W x + alpha/rank · B A x are trained.

At long lengths LoRA alone is worse than full training (LongLoRA, Chen et al. 2023,
arXiv:2309.12307, table 2): use lora_plus there.
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
    """Low-rank updates of linear layers."""

    rank: int = 8  # of the update of a matrix, at least 1
    alpha: float = 16.0  # the update is scaled by alpha / rank; above 0
    dropout: float = 0.0  # of the input of A, in [0, 1)
    targets: list[str] | None = None  # ends of the names of linear layers; null: all linear layers of attention

    word: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        require(self.rank > 0, "rank", self.rank, "must be at least 1", "use {key}=8")
        require(self.alpha > 0, "alpha", self.alpha, "must be above 0", "use {key}=16")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "must be in [0, 1)", "use {key}=0")
        remedy = "use {key}=null for the layers of attention, or tuning=full"
        require(self.targets != [], "targets", "[]", "is empty", remedy)

    def apply(self, model: LanguageModel, seed: int) -> None:
        import torch
        from peft import LoraConfig, inject_adapter_in_model
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        layers = self.target_layers(model.network)
        _require_own_weights(model.network, layers)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(layers),
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        )
        with torch.random.fork_rng(devices=[]):
            # Not the seed itself: a fresh network was drawn from it, so A would repeat its weights.
            torch.manual_seed(-1 - seed)
            # Inside a module without a configuration: for some model types, peft changes targets by the ends of their names.
            inject_adapter_in_model(config, nn.ModuleDict({"network": model.network}))

    def merge(self, model: LanguageModel) -> None:
        network = model.network
        for name, layer in _lora_layers(network).items():
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
        network.requires_grad_(True)

    def adapters(self, model: LanguageModel) -> dict[str, Any]:
        names = list(_lora_layers(model.network))
        # Names within a layer can be used as targets: attn.c_proj selects no mlp.c_proj.
        targets = sorted({re.sub(r".*\.\d+\.", "", name) for name in names})
        settings = {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout}
        return settings | {"targets": targets, "layers": len(names)}

    def target_layers(self, network: PreTrainedModel) -> dict[str, nn.Module]:
        """Return the linear layers that the targets select, by name. Raises `ConfigError` for one that selects none."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        # The head is applied apart from the network, by its weight, so an update of its module would have no effect.
        head = network.get_output_embeddings()
        modules = dict(network.named_modules())
        linear = {name: m for name, m in modules.items() if isinstance(m, nn.Linear | Conv1D) and m is not head}
        # The towers of a multimodal network are frozen.
        linear = {name: layer for name, layer in linear.items() if layer.weight.requires_grad}
        if self.targets is None:
            attention = tuple(f"{name}." for name, m in modules.items() if "attention" in type(m).__name__.lower())
            found = {name: layer for name, layer in linear.items() if name.startswith(attention)}
            rule = f"there is no linear layer in the attention of a {network.config.model_type}"
            require(found != {}, "targets", None, rule, _suggestion("", linear))
            return found
        for target in self.targets:
            known = any(f".{name}".endswith(f".{target}") for name in linear)
            rule = "is not the end of the name of a linear layer below the head"
            require(known, "targets", target, rule, _suggestion(target, linear))
        ends = tuple(f".{target}" for target in self.targets)
        return {name: layer for name, layer in linear.items() if f".{name}".endswith(ends)}


def _require_own_weights(network: PreTrainedModel, layers: dict[str, nn.Module]) -> None:
    """Raises `ConfigError` for a weight with several users: merging would change it for all of them.

    A user is a place in the tree of modules where an adapter could be.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    users: dict[int, set[tuple[int, str]]] = {}
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        for weight in module.parameters(recurse=False):
            users.setdefault(id(weight), set()).add((id(modules[parent]), child))
    for name, layer in layers.items():
        count = len(users[id(layer.weight)])
        rule = f"selects {name}, whose weight {count} modules of a {network.config.model_type} share: merging would change all of them"
        require(count == 1, "targets", "", rule, "use targets with a weight of their own, or tuning=full")


def _lora_layers(network: PreTrainedModel) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def _suggestion(target: str, names: dict[str, nn.Module]) -> str:
    """Return the closest name as a remedy, or else all names."""

    def ends(parts: int) -> list[str]:
        return sorted({".".join(name.split(".")[-parts:]) for name in names})

    if close := difflib.get_close_matches(target, ends(target.count(".") + 1), n=1):
        return f"did you mean {close[0]}?"
    return f"choose from {', '.join(ends(1))}"
