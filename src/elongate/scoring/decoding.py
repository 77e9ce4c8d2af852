"""Greedy decoding: append the most likely token until every row has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Written


def decode_greedily(
    model: LanguageModel,
    prefixes: Int[np.ndarray, "n prefix"],
    num_tokens: int,
    stop: Callable[[np.ndarray], bool],
    next_logits: Callable[[Tensor], Float[Tensor, "rows vocab"]],
) -> Written:
    """Return the tokens appended to each prefix.

    `next_logits` maps texts [rows, length] to the logits of the token after each. A row ends after
    `num_tokens` tokens, or with the first token at which `stop(tokens written so far)` is true.
    """
    import torch

    texts = torch.from_numpy(prefixes).to(model.device)
    ends = np.full(len(prefixes), num_tokens)
    for count in range(1, num_tokens + 1):
        with torch.no_grad(), model.autocast():
            texts = torch.cat([texts, next_logits(texts).argmax(-1, keepdim=True)], dim=1)
        written = texts[:, prefixes.shape[1] :].cpu().numpy()
        for row in np.flatnonzero(ends >= count):
            if stop(written[row]):
                ends[row] = count
        if (ends <= count).all():
            break
    return [row[:end] for row, end in zip(written, ends, strict=True)]
