"""Tiny random checkpoints of the architectures that transformers knows, by the name of their row in docs/architectures.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from elongate.data.tokenizer.byte import ByteTokenizer
from tests.architectures.rows import CAUSAL, KNOWN_FAULTS, MASKED, MULTIMODAL, VARIANTS
from tests.architectures.sizes import SIZES, TOWER, sized


@dataclass(frozen=True)
class Architecture:
    """A tiny network of an architecture."""

    name: str  # its row on the page
    auto: Any  # the Auto class that opens it
    model_type: str
    fields: dict[str, Any] = field(default_factory=dict, hash=False)  # of its configuration, besides the common sizes
    vision: dict[str, Any] | None = field(default=None, hash=False)  # of its tower; the other fields are those of its language part

    def __str__(self) -> str:
        return self.name

    @property
    def config(self) -> PreTrainedConfig:
        """Return its configuration."""
        cls = CONFIG_MAPPING[self.model_type]
        if self.vision is None:
            return cls(**sized(cls, SIZES) | self.fields)
        parts = {"text_config": (self.fields, SIZES), "vision_config": (self.vision, TOWER)}
        return cls(**{key: self._part(key, more, sizes) for key, (more, sizes) in parts.items()})

    def _part(self, key: str, more: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
        """Return a part of the configuration of a multimodal network. Some are of any type, which they state."""
        cls = CONFIG_MAPPING[more["model_type"]] if "model_type" in more else CONFIG_MAPPING[self.model_type].sub_configs[key]
        return sized(cls, sizes) | more

    def network(self) -> PreTrainedModel:
        """Return a network with random weights that are large enough for every part to matter."""
        torch.manual_seed(0)
        network = self.auto.from_config(self.config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
                elif not name.endswith(("A_log", "dt_bias")):  # exponents
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return network

    def save(self, folder: Path) -> None:
        """Write the checkpoint with a tokenizer."""
        self.network().save_pretrained(folder)
        ByteTokenizer().save(folder)


ZOO = {
    architecture.name: architecture
    for architecture in [
        *(Architecture(kind, AutoModelForCausalLM, kind, more) for kind, more in CAUSAL.items()),
        *(Architecture(name, AutoModelForCausalLM, kind, more) for name, (kind, more) in VARIANTS.items()),
        *(Architecture(f"{kind} (masked)", AutoModelForMaskedLM, kind, more) for kind, more in MASKED.items()),
        *(
            Architecture(f"{kind} (multimodal)", AutoModelForImageTextToText, kind, text, vision)
            for kind, (text, vision) in MULTIMODAL.items()
        ),
    ]
    if architecture.name not in KNOWN_FAULTS
}
