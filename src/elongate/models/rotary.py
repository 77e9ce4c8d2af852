"""The rotary embeddings of a network: as they were trained, set anew, and proved.

Where frequencies depend on how long a text is (dynamic NTK, LongRoPE), transformers lets them follow the largest position of each call,
and dynamic NTK remember it: a chunk, a batch or an earlier text would change the result. Here `read` sets them for the whole text instead.

Where layers differ by type (ModernBERT, Gemma 3), a scaling acts on those that see the whole sequence: in the others no distance is
longer than their window, whatever the length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling

_FOLLOWING = ("dynamic", "longrope")  # rope_types whose frequencies depend on the length of the text
_WHOLE = "full_attention"  # transformers' word for layers that see the whole sequence


class RotaryPositions:
    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        # As trained: a scaling always starts from these, also when it is set again for another length.
        self._trained: dict[str, Any] = dict(getattr(network.config, "rope_parameters", None) or {})
        self._following = self._held_still()

    def __bool__(self) -> bool:
        return bool(self.modules())

    @property
    def trained(self) -> dict[str, Any]:
        """`rope_parameters` of the layers that a scaling acts on."""
        return self._trained[_WHOLE] if self._by_layer_type else self._trained

    @property
    def frequencies(self) -> torch.Tensor:
        """Radians per token, as they are built."""
        return getattr(self.modules()[0][2], f"{self._prefix}inv_freq")

    def read(self, length: int) -> None:
        """Sets the frequencies for texts of `length` tokens where they depend on it, whatever was read before."""
        for module, rope_type, layers in self._following:
            built = getattr(module, "_".join([*layers.values(), "inv_freq"]))
            # As a tensor, as transformers gives it: the rounding is the same.
            read = torch.tensor(length, device=built.device)
            built.copy_(ROPE_INIT_FUNCTIONS[rope_type](module.config, built.device, seq_len=read, **layers)[0])  # type: ignore[arg-type]

    def unlike_plain(self) -> str | None:
        """How the parameters differ from those that a scaling starts from: plain RoPE."""
        if "rope_type" not in self.trained:
            return "whose layers have different rotary parameters"
        if self.trained["rope_type"] != "default":
            return f"that was extended before (rope_type {self.trained['rope_type']})"
        return None

    def rotary(self, original_length: int) -> Rotary:
        dim = int(head_dim(self.network.config) * self.trained.get("partial_rotary_factor", 1.0))
        return Rotary(dim, float(self.trained["rope_theta"]), original_length)

    def set(self, scaling: Scaling, original_length: int, length: int) -> dict[str, Any]:
        """Builds the embeddings anew for sequences of up to `length` tokens; returns the proof."""
        config = self.network.config
        if self.unlike_plain():
            # Dynamic NTK takes it for the length that was trained: raised, it would switch the method off.
            if self.trained.get("rope_type") != "dynamic":
                config.max_position_embeddings = length
            return {"rope_parameters": self._trained}
        config.max_position_embeddings = scaling.stated_length(original_length, length)
        rotary, factor = self.rotary(original_length), length / original_length
        carried = {key: self.trained[key] for key in ("partial_rotary_factor",) if key in self.trained}
        parameters = carried | scaling.rope_parameters(rotary, factor)
        config.rope_parameters = self._trained | {_WHOLE: parameters} if self._by_layer_type else parameters
        # The module reads the configuration once, when it is made: changed afterwards, nothing would happen.
        for parent, name, module in self.modules():
            setattr(parent, name, type(module)(config).to(self.network.device))
        self._following = self._held_still()
        return self._proof(scaling, rotary, factor)

    def modules(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """(parent, name, module) of every rotary embedding."""
        return [
            (parent, name, module)
            for parent in self.network.modules()
            for name, module in parent.named_children()
            if any(buffer.endswith("inv_freq") for buffer, _ in module.named_buffers(recurse=False))
        ]

    def _held_still(self) -> list[tuple[nn.Module, str, dict[str, str]]]:
        """Keeps the frequencies from changing by themselves; returns (module, rope_type, layer type if it has such) of those that would."""
        found: list[tuple[nn.Module, str, dict[str, str]]] = []
        for _, _, module in self.modules():
            types = getattr(module, "rope_type", "default")
            if isinstance(types, dict):
                found += [(module, kind, {"layer_type": layer}) for layer, kind in types.items() if kind in _FOLLOWING]
                module.rope_type = dict.fromkeys(types, "default")
            elif types in _FOLLOWING:
                found.append((module, types, {}))
                module.rope_type = "default"
        return found

    @property
    def _by_layer_type(self) -> bool:
        return _WHOLE in self._trained

    @property
    def _prefix(self) -> str:
        return f"{_WHOLE}_" if self._by_layer_type else ""

    def _proof(self, scaling: Scaling, rotary: Rotary, factor: float) -> dict[str, Any]:
        """Frequencies, and angles at the ends of texts of the original and the target length, against the closed form in float64."""
        device, attention_factor = self.network.device, scaling.attention_factor(rotary, factor)
        layers = (_WHOLE,) if self._by_layer_type else ()
        longest, frequency_error, angle_error = round(rotary.original_length * factor), 0.0, 0.0
        for length in (rotary.original_length, longest):
            self.read(length)
            expected = scaling.read_frequencies(rotary, factor, length)
            positions = np.unique([0, 1, rotary.original_length - 1, length - 1])
            closed = attention_factor * np.cos(np.outer(positions, expected))
            for _, _, module in self.modules():
                # Ours, and one that follows the text by itself, as in plain transformers.
                for embedding in (module, type(module)(self.network.config).to(device)):
                    cosine, _ = embedding(torch.zeros(1, device=device), torch.as_tensor(positions, device=device)[None], *layers)
                    built = getattr(embedding, f"{self._prefix}inv_freq").double().cpu().numpy()
                    frequency_error = max(frequency_error, float(np.abs(built / expected - 1).max()))
                    found = cosine[0, :, : len(expected)].double().cpu().numpy()
                    angle_error = max(angle_error, float(np.abs(found - closed).max()))
        # An angle of n radians carries n rounding errors of float32.
        if frequency_error > 1e-5 or angle_error > 1e-5 + 4e-7 * longest:
            raise AssertionError(f"{scaling.word} is not on: frequencies off by {frequency_error:.1e}, angles by {angle_error:.1e}")
        return {
            "rope_parameters": dict(self.network.config.rope_parameters),
            "attention_factor": attention_factor,
            "frequencies": [float(f) for f in expected],
            "frequency_error": frequency_error,
            "angle_error": angle_error,
        }


def head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
