"""Random letters as held-out text, and losses computed from one prefix at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import Tokens
from elongate.evaluation.evaluation import Setting
from elongate.scoring.left_to_right import LeftToRight

DOCUMENTS, LENGTH = 8, 200


def letters() -> Setting:
    flat = np.random.default_rng(0).integers(97, 123, size=DOCUMENTS * LENGTH).astype(np.uint16)
    bounds = np.arange(0, DOCUMENTS * LENGTH + 1, LENGTH)
    return Setting(Tokens(flat, bounds), ByteTokenizer(), 32, 64, seed=0, reading=LeftToRight())


def ticked(text: str) -> None:
    pass


def texts(setting: Setting) -> np.ndarray:
    return setting.held_out.flat.reshape(DOCUMENTS, LENGTH).astype(np.int64)


def prefix_by_prefix(model: Any, tokens: np.ndarray, last: int | None = None) -> np.ndarray:
    """The losses of the last tokens, each from a text that ends before it, so that no later token can be read."""
    length = tokens.shape[1]
    losses = np.full(tokens.shape, np.nan)
    for end in range(length - (last or length - 1), length):
        with torch.no_grad():
            logits = model.network(torch.from_numpy(tokens[:, :end])).logits[:, -1]
        losses[:, end] = -logits.log_softmax(-1)[range(len(tokens)), tokens[:, end]].numpy()
    return losses if last is None else losses[:, -last:]
