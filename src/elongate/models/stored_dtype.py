"""The dtype in which weights are stored: that of the checkpoint, or the one that `model.export_dtype` names.

Weights are trained in float32, or in bfloat16 with `precision=bf16_pure`. Before a model is measured and exported they
are rounded to what is stored, so that the figures are those of the exported weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from elongate.errors import ConfigError

_NAMES = {"F16": torch.float16, "BF16": torch.bfloat16}  # of safetensors; every other floating point dtype is opened as float32


@dataclass(frozen=True)
class StoredDtypes:
    """`usual`, and float32 for the tensors in `wider`, such as the router of a mixture of experts."""

    usual: torch.dtype = torch.float32
    wider: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return str(self.usual).removeprefix("torch.")

    def of(self, name: str, tensor: Tensor) -> torch.dtype:
        """Return the dtype of a tensor of the network."""
        if not tensor.is_floating_point():
            return tensor.dtype
        return torch.float32 if name in self.wider else self.usual

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of the network as they are stored. Tied weights stay one tensor."""
        stored: dict[tuple[int, torch.Size], Tensor] = {}
        tensors = network.state_dict()
        for name, tensor in tensors.items():
            tensors[name] = stored.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(self.of(name, tensor)))
        return tensors

    @torch.no_grad()
    def round_(self, network: nn.Module) -> None:
        """Round the weights to what is stored. Raises `ConfigError` for one that is too large for the dtype."""
        for name, tensor in network.state_dict().items():
            if (dtype := self.of(name, tensor)) is not tensor.dtype:
                finite = tensor.isfinite().all()
                tensor.copy_(tensor.to(dtype))
                if finite and not tensor.isfinite().all():
                    rule = f"cannot store {name}, which has values beyond {torch.finfo(dtype).max:g}"
                    raise ConfigError("model.export_dtype", str(self), rule, "use {key}=float32")


def read_stored_dtypes(folder: Path) -> StoredDtypes:
    """Return the dtypes of the safetensors files in a folder. The usual one is that of most weights."""
    dtypes: dict[str, torch.dtype] = {}
    counts: Counter[torch.dtype] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a mapping
                view = tensors.get_slice(name)
                dtypes[name] = _NAMES.get(view.get_dtype(), torch.float32)
                counts[dtypes[name]] += torch.Size(view.get_shape()).numel()
    if not counts:
        return StoredDtypes()
    usual = counts.most_common(1)[0][0]
    return StoredDtypes(usual, frozenset(name for name, dtype in dtypes.items() if dtype is torch.float32 is not usual))
