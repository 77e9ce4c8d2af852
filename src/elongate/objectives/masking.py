"""Hiding tokens as BERT does (Devlin et al. 2018, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

REPLACED, KEPT = 0.1, 0.1  # shares of the chosen tokens: another token, the token itself; the others are masked


def hide_tokens(
    tokens: Int[np.ndarray, "batch length"], ratio: float, mask: int, vocab_size: int, random: np.random.Generator
) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
    """Choose a `ratio` of the tokens, at least one per row; return the tokens with these hidden, and the choice."""
    order = random.random(tokens.shape).argsort(axis=1)
    chosen = order < max(1, round(ratio * tokens.shape[1]))
    kind = random.random(tokens.shape)
    others = random.integers(vocab_size, size=tokens.shape)
    hidden = np.where(kind < REPLACED, others, np.where(kind < REPLACED + KEPT, tokens, mask))
    return np.where(chosen, hidden, tokens), chosen
