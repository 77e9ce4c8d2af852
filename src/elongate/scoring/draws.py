"""Random numbers that depend only on the tokens they are drawn for, so a resumed run draws the same ones."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Int


def generator_for(tokens: Int[np.ndarray, "batch length"], purpose: str) -> np.random.Generator:
    """Return a generator that is the same for the same tokens and the same purpose."""
    key = hashlib.sha256(purpose.encode() + tokens.tobytes()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
