"""Compares the weights in the safetensors files of a folder with those in memory, one tensor at a time."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict


def written_difference(network: PreTrainedModel, folder: Path) -> str | None:
    """Return how the weights in the files differ from those of the network, which are rounded to what is stored; None: they are equal."""
    expected = _stored_names(network)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a mapping
                weight = expected.pop(name, None)
                if weight is None:
                    return f"{file.name} contains {name}, which is not in the network"
                found = tensors.get_tensor(name).to(weight.device, weight.dtype)
                if not torch.equal(found, weight):
                    return f"{name} in {file.name} has other values than in memory"
    return f"{next(iter(expected))} is in none of its files" if expected else None


def _stored_names(network: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights by the names that `save_pretrained` gives them: of experts, for example, one for each."""
    ignored = network._keys_to_ignore_on_save or ()
    state = {name: weight for name, weight in network.state_dict().items() if not any(re.search(key, name) for key in ignored)}
    stored: dict[str, Tensor] = revert_weight_conversion(network, remove_tied_weights_from_state_dict(state, network))
    return stored
