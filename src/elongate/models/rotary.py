"""The rotary embeddings of a network: set for a scaling, and verified.

If frequencies depend on the length of the text (dynamic NTK, LongRoPE), transformers derives them
from the largest position of each call, and dynamic NTK even remembers it: a chunk, a batch or an
earlier text would change the result. Here `read` sets them for the whole text instead.

If layers differ by type (ModernBERT, Gemma 3), a scaling acts on those that see the whole sequence:
in the others, no distance exceeds their window, however long the text is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from elongate.context.position.scaling import Rotary, Scaling

_LENGTH_DEPENDENT = ("dynamic", "longrope")  # rope_types whose frequencies depend on the length of the text
_WHOLE = "full_attention"  # transformers' name for layers that see the whole sequence


class RotaryPositions:
    """All rotary embeddings of a network; false if it has none."""

    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        # As trained: a scaling always starts from these, also when it is set again for another length.
        self._trained: dict[str, Any] = dict(getattr(network.config, "rope_parameters", None) or {})
        self._length_dependent = self._freeze_frequencies()

    def __bool__(self) -> bool:
        return bool(self.modules())

    @property
    def trained(self) -> dict[str, Any]:
        """Return the trained `rope_parameters` of the layers that a scaling acts on."""
        return self._trained[_WHOLE] if self._by_layer_type else self._trained

    @property
    def frequencies(self) -> Float[torch.Tensor, " half"]:
        """Return the present frequencies, in radians per token."""
        return getattr(self.modules()[0][2], f"{self._prefix}inv_freq")

    def read(self, length: int) -> None:
        """Set length-dependent frequencies for texts of `length` tokens, independent of earlier texts."""
        for module, rope_type, layers in self._length_dependent:
            built = getattr(module, "_".join([*layers.values(), "inv_freq"]))
            # transformers passes a tensor too, so the rounding is the same.
            seq_len = torch.tensor(length, device=built.device)
            compute: Callable[..., Any] = ROPE_INIT_FUNCTIONS[rope_type]
            built.copy_(compute(module.config, built.device, seq_len=seq_len, **layers)[0])

    def unlike_plain(self) -> str | None:
        """Return how the trained parameters differ from plain RoPE, from which a scaling starts; None: they do not."""
        if "rope_type" not in self.trained:
            return "whose layers have different rotary parameters"
        if self.trained["rope_type"] != "default":
            return f"that was extended before (rope_type {self.trained['rope_type']})"
        return None

    def rotary(self, original_length: int) -> Rotary:
        """Return the trained embedding as the closed forms need it."""
        dim = int(head_dim(self.network.config) * self.trained.get("partial_rotary_factor", 1.0))
        return Rotary(dim, float(self.trained["rope_theta"]), original_length)

    def set(self, scaling: Scaling, original_length: int, length: int) -> dict[str, Any]:
        """Rebuild the embeddings for sequences of `length` tokens; return the evidence that the scaling is active."""
        config = self.network.config
        if self.unlike_plain():
            # Dynamic NTK reads the trained length from this key: a larger value would switch it off.
            if self.trained.get("rope_type") != "dynamic":
                config.max_position_embeddings = length
            return {"rope_parameters": self._trained}
        config.max_position_embeddings = scaling.stated_length(original_length, length)
        rotary, factor = self.rotary(original_length), length / original_length
        carried = {key: self.trained[key] for key in ("partial_rotary_factor",) if key in self.trained}
        parameters = carried | scaling.rope_parameters(rotary, factor)
        config.rope_parameters = self._trained | {_WHOLE: parameters} if self._by_layer_type else parameters
        # A module reads the configuration only when it is created, so changing the configuration is not enough.
        for parent, name, module in self.modules():
            setattr(parent, name, type(module)(config).to(self.network.device))
        self._length_dependent = self._freeze_frequencies()
        return self._verify(scaling, rotary, factor)

    def modules(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """Return (parent, name, module) of every rotary embedding."""
        return [
            (parent, name, module)
            for parent in self.network.modules()
            for name, module in parent.named_children()
            if any(buffer.endswith("inv_freq") for buffer, _ in module.named_buffers(recurse=False))
        ]

    def _freeze_frequencies(self) -> list[tuple[nn.Module, str, dict[str, str]]]:
        """Stop modules from changing their frequencies; return (module, rope_type, layer type, if any) of those."""
        found: list[tuple[nn.Module, str, dict[str, str]]] = []
        for _, _, module in self.modules():
            types = getattr(module, "rope_type", "default")
            if isinstance(types, dict):
                dependent = {layer: kind for layer, kind in types.items() if kind in _LENGTH_DEPENDENT}
                found += [(module, kind, {"layer_type": layer}) for layer, kind in dependent.items()]
                module.rope_type = dict.fromkeys(types, "default")
            elif types in _LENGTH_DEPENDENT:
                found.append((module, types, {}))
                module.rope_type = "default"
        return found

    @property
    def _by_layer_type(self) -> bool:
        return _WHOLE in self._trained

    @property
    def _prefix(self) -> str:
        return f"{_WHOLE}_" if self._by_layer_type else ""

    def _verify(self, scaling: Scaling, rotary: Rotary, factor: float) -> dict[str, Any]:
        """Compare frequencies and angles with the closed form in float64, for texts of original and target length.

        Raises `AssertionError` if they differ.
        """
        attention_factor = scaling.attention_factor(rotary, factor)
        longest, frequency_error, angle_error = round(rotary.original_length * factor), 0.0, 0.0
        for length in (rotary.original_length, longest):
            self.read(length)
            expected = scaling.read_frequencies(rotary, factor, length)
            positions = np.unique([0, 1, rotary.original_length - 1, length - 1])
            cosines = attention_factor * np.cos(np.outer(positions, expected))
            for frequencies, found in self._built(positions):
                frequency_error = max(frequency_error, float(np.abs(frequencies / expected - 1).max()))
                angle_error = max(angle_error, float(np.abs(found[:, : len(expected)] - cosines).max()))
        # An angle of n radians has about n rounding errors of float32.
        if frequency_error > 1e-5 or angle_error > 1e-5 + 4e-7 * longest:
            errors = f"frequencies differ by {frequency_error:.1e}, angles by {angle_error:.1e}"
            raise AssertionError(f"{scaling.word} is not active: {errors}")
        return {
            "rope_parameters": dict(self.network.config.rope_parameters),
            "attention_factor": attention_factor,
            "frequencies": [float(f) for f in expected],
            "frequency_error": frequency_error,
            "angle_error": angle_error,
        }

    def _built(self, positions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (frequencies, cosines) of every embedding, ours and a fresh one as in plain transformers."""
        device, layers = self.network.device, (_WHOLE,) if self._by_layer_type else ()
        numbers, built = torch.as_tensor(positions, device=device)[None], []
        for _, _, module in self.modules():
            for embedding in (module, type(module)(self.network.config).to(device)):
                cosine, _ = embedding(torch.zeros(1, device=device), numbers, *layers)
                frequencies = getattr(embedding, f"{self._prefix}inv_freq")
                built.append((frequencies.double().cpu().numpy(), cosine[0].double().cpu().numpy()))
        return built


def head_dim(config: PreTrainedConfig) -> int:
    """Return the dimensions of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
