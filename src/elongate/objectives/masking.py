"""Hidden tokens, as BERT hides them (Devlin et al. 2018, arXiv:1810.04805, section 3.1), drawn anew for every batch."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Bool, Int

REPLACED, KEPT = 0.1, 0.1  # of the chosen tokens: another token, the token itself; all others are masked


def random_of(tokens: Int[np.ndarray, "batch length"], purpose: str) -> np.random.Generator:
    """The same for the same tokens and purpose, so that a run that goes on draws what it would have drawn."""
    key = hashlib.sha256(purpose.encode() + tokens.tobytes()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def corrupted(
    tokens: Int[np.ndarray, "batch length"], ratio: float, mask: int, vocab_size: int, random: np.random.Generator
) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
    """The tokens with a `ratio` of them, at least one a row, chosen and hidden; and which were chosen."""
    order = random.random(tokens.shape).argsort(axis=1)
    chosen = order < max(1, round(ratio * tokens.shape[1]))
    kind = random.random(tokens.shape)
    others = random.integers(vocab_size, size=tokens.shape)
    hidden = np.where(kind < REPLACED, others, np.where(kind < REPLACED + KEPT, tokens, mask))
    return np.where(chosen, hidden, tokens), chosen
