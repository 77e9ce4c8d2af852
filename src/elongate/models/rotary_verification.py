"""Compares the rotary embeddings of a network with the closed form of a scaling, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from transformers import PreTrainedConfig

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling


@dataclass(frozen=True)
class Embeddings:
    """The rotary embeddings of a network."""

    modules: list[nn.Module]
    config: PreTrainedConfig
    device: torch.device
    layer: str | None  # the type of layers whose frequencies are meant; None: all layers have the same

    def at(self, positions: Int[np.ndarray, " positions"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (frequencies, cosines of every pair) of every embedding, ours and a fresh one as in plain transformers."""
        layers, name = ((), "inv_freq") if self.layer is None else ((self.layer,), f"{self.layer}_inv_freq")
        numbers, built = torch.as_tensor(positions, device=self.device)[None], []
        for module in self.modules:
            for embedding in (module, type(module)(self.config).to(self.device)):
                angles = embedding(torch.zeros(1, device=self.device), numbers, *layers)
                frequencies = getattr(embedding, name)
                cosines = _per_pair(angles if isinstance(angles, torch.Tensor) else angles[0], len(frequencies))
                built.append((frequencies.double().cpu().numpy(), cosines.double().cpu().numpy()))
        return built


def verify_frequencies(
    embeddings: Embeddings, read: Callable[[int], None], scaling: Scaling, rotary: Rotary, factor: float
) -> dict[str, Any]:
    """Compare frequencies and angles with the closed form in float64, for texts of original and target length.

    `read` sets the frequencies for a text of that length. Raises `AssertionError` if they differ.
    """
    attention_factor = scaling.attention_factor(rotary, factor)
    longest, frequency_error, angle_error = round(rotary.original_length * factor), 0.0, 0.0
    for length in (rotary.original_length, longest):
        read(length)
        expected = scaling.read_frequencies(rotary, factor, length)
        positions = np.unique([0, 1, rotary.original_length - 1, length - 1])
        cosines = attention_factor * np.cos(np.outer(positions, expected))
        for frequencies, built in embeddings.at(positions):
            # Relative to the expected frequency, unless a pair does not rotate.
            errors = np.abs(frequencies - expected) / np.where(expected > 0, expected, 1.0)
            frequency_error = max(frequency_error, float(errors.max()))
            angle_error = max(angle_error, float(np.abs(built - cosines).max()))
    # An angle of n radians has about n rounding errors of float32.
    if frequency_error > 1e-5 or angle_error > 1e-5 + 4e-7 * longest:
        found = f"frequencies differ by {frequency_error:.1e}, angles by {angle_error:.1e}"
        raise AssertionError(f"{scaling.word} is not active: {found}")
    return {
        "rope_parameters": dict(embeddings.config.rope_parameters),
        "attention_factor": attention_factor,
        "frequencies": [float(f) for f in expected],
        "frequency_error": frequency_error,
        "angle_error": angle_error,
    }


def _per_pair(angles: torch.Tensor, pairs: int) -> torch.Tensor:
    """Return one cosine per position and pair, of a text's cosines or complex numbers, however they are arranged."""
    cosines = angles[0].real if angles.is_complex() else angles[0]
    if cosines.shape[-1] == pairs or not torch.equal(cosines[:, ::2], cosines[:, 1::2]):
        return cosines[:, :pairs]  # the two numbers of a pair are half a head apart
    return cosines[:, ::2]  # they are neighbours
