"""The keys with which configurations state how many tokens long the texts were that a checkpoint was trained on.

Read before torch is imported, from config.json, and afterwards from the configuration of the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")  # most models', GPT-2's, MPT's, BLOOM's


def length_key(config: PreTrainedConfig) -> str | None:
    """Return the key that states the length in tokens; None: no key does. XLNet, which has no limit, states -1."""
    return next((key for key in LENGTH_KEYS if (getattr(config, key, None) or 0) > 0), None)
