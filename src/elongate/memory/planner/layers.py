"""The list of layers of a network."""

from __future__ import annotations

from torch import nn


def stack_of(network: nn.Module) -> str | None:
    """Return the name of the only list of layers; None if there are several lists or none."""
    found: list[str] = []
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not inside:
            found.append(name)
    return found[0] if len(found) == 1 else None


def truncate(network: nn.Module, num_layers: int) -> None:
    """Drop the layers from `num_layers` on."""
    name = stack_of(network)
    assert name is not None, "depths() found it"
    layers = network.get_submodule(name)
    assert isinstance(layers, nn.ModuleList)
    del layers[num_layers:]
