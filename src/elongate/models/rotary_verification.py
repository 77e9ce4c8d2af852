"""Compares the rotary embeddings of a network with the closed form of a scaling, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling

if TYPE_CHECKING:
    from elongate.models.rotary import RotaryPositions


def verify_frequencies(rotary_positions: RotaryPositions, scaling: Scaling, rotary: Rotary, factor: float, layer: str) -> dict[str, Any]:
    """Compare frequencies and angles with the closed form in float64, for texts of original and target length.

    Raises `AssertionError` if they differ.
    """
    attention_factor = scaling.attention_factor(rotary, factor)
    longest, frequency_error, angle_error = round(rotary.original_length * factor), 0.0, 0.0
    for length in (rotary.original_length, longest):
        rotary_positions.read(length)
        expected = scaling.read_frequencies(rotary, factor, length)
        positions = np.unique([0, 1, rotary.original_length - 1, length - 1])
        cosines = attention_factor * np.cos(np.outer(positions, expected))
        for frequencies, built in _built(rotary_positions, positions, layer):
            # Relative to the expected frequency, unless a pair does not rotate.
            errors = np.abs(frequencies - expected) / np.where(expected > 0, expected, 1.0)
            frequency_error = max(frequency_error, float(errors.max()))
            angle_error = max(angle_error, float(np.abs(built - cosines).max()))
    # An angle of n radians has about n rounding errors of float32.
    if frequency_error > 1e-5 or angle_error > 1e-5 + 4e-7 * longest:
        found = f"frequencies differ by {frequency_error:.1e}, angles by {angle_error:.1e}"
        raise AssertionError(f"{scaling.word} is not active: {found}")
    return {
        "rope_parameters": dict(rotary_positions.config.rope_parameters),
        "attention_factor": attention_factor,
        "frequencies": [float(f) for f in expected],
        "frequency_error": frequency_error,
        "angle_error": angle_error,
    }


def _built(rotary_positions: RotaryPositions, positions: np.ndarray, layer: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (frequencies, cosines of every pair) of every embedding, ours and a fresh one as in plain transformers."""
    device, layers = rotary_positions.network.device, (layer,) if rotary_positions.by_layer_type else ()
    numbers, built = torch.as_tensor(positions, device=device)[None], []
    for _, _, module in rotary_positions.modules():
        for embedding in (module, type(module)(rotary_positions.config).to(device)):
            angles = embedding(torch.zeros(1, device=device), numbers, *layers)
            frequencies = getattr(embedding, rotary_positions.buffer(layer))
            cosines = _per_pair(angles if isinstance(angles, torch.Tensor) else angles[0], len(frequencies))
            built.append((frequencies.double().cpu().numpy(), cosines.double().cpu().numpy()))
    return built


def _per_pair(angles: torch.Tensor, pairs: int) -> torch.Tensor:
    """Return one cosine per position and pair, of a text's cosines or complex numbers, however they are arranged."""
    cosines = angles[0].real if angles.is_complex() else angles[0]
    if cosines.shape[-1] == pairs or not torch.equal(cosines[:, ::2], cosines[:, 1::2]):
        return cosines[:, :pairs]  # the two numbers of a pair are half a head apart
    return cosines[:, ::2]  # they are neighbours
