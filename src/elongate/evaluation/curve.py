"""Loss by position: how much a token's context is worth, up to four times the target length.

Every sequence is the beginning of a held-out document, all have the same length, so every position is scored on the same
documents: a mean over tokens, in nats, summed in float64, with the standard error over sequences. One forward pass a sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.data.sequences import HeldOut, held_out
from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting, standard_error

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

ENOUGH = 8  # sequences without which a shorter curve is drawn
FINE_BINS = 64
BATCH_TOKENS = 8192  # read at once


@dataclass(frozen=True, kw_only=True)
class Curve(Evaluation):
    length: int | None = None  # tokens, at least 2; null: four times the target length
    num_sequences: int = 48  # at most so many, at least 1

    word: ClassVar[str] = "curve"

    def __post_init__(self) -> None:
        require(self.length is None or self.length > 1, "length", self.length, "must be at least 2", "use {key}=null for 4 × target")
        require(self.num_sequences > 0, "num_sequences", self.num_sequences, "must be at least 1", "use {key}=48")

    def header(self, setting: Setting) -> dict[str, Any]:
        samples = self._samples(setting)
        n, length = samples.tokens.shape
        lengths = {"length": length, "original_length": setting.original_length, "target_length": setting.target_length}
        edges = {"table": {"edges": _table_edges(setting.original_length, length)}, "fine": {"edges": _fine_edges(length)}}
        return lengths | {"n": n, "documents": len(np.unique(samples.documents))} | edges

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        import torch

        from elongate.objectives.cross_entropy import token_cross_entropy

        tokens = self._samples(setting).tokens
        losses = np.empty((len(tokens), tokens.shape[1] - 1))
        rows = max(1, BATCH_TOKENS // tokens.shape[1])
        model.network.eval()
        for i in range(0, len(tokens), rows):
            tick(f"curve {i}/{len(tokens)}")
            batch = torch.from_numpy(tokens[i : i + rows]).to(model.device)
            with torch.no_grad():
                hidden = model.hidden(batch[:, :-1])
            losses[i : i + rows] = token_cross_entropy(hidden, model.head, batch[:, 1:], model.precision).double().cpu().numpy()
        table, fine = _table_edges(setting.original_length, tokens.shape[1]), _fine_edges(tokens.shape[1])
        return {"table": _binned(losses, table), "fine": _binned(losses, fine)}

    def _samples(self, setting: Setting) -> HeldOut:
        """As long as asked for; where nothing is asked for, four times the target, halved until enough documents are that long."""
        length = self.length or 4 * setting.target_length
        samples = held_out(setting.held_out, length, self.num_sequences)
        while self.length is None and len(samples) < min(ENOUGH, self.num_sequences) and length // 2 >= setting.original_length:
            length //= 2
            samples = held_out(setting.held_out, length, self.num_sequences)
        if len(samples) == 0:
            rule = f"finds no held-out document of {length} tokens"
            raise ConfigError(
                "evaluation.curve.length", length, rule, "use longer documents or a larger data.validation_ratio, or evaluation=[]"
            )
        return samples


def _binned(losses: Float[np.ndarray, "n targets"], edges: list[int]) -> dict[str, Any]:
    """Mean and standard error of each bin of positions; losses[:, i] is that of the token with i + 1 tokens before it."""
    means = np.stack([losses[:, max(a, 1) - 1 : b - 1].mean(axis=1) for a, b in itertools.pairwise(edges)], axis=1)
    return {"loss": [float(m) for m in means.mean(axis=0)], "standard_error": standard_error(means)}


def _table_edges(original_length: int, length: int) -> list[int]:
    """0, a quarter of the original length, the original length and its doublings, the end."""
    edges = [0, original_length // 4, original_length]
    while edges[-1] * 2 < length:
        edges.append(edges[-1] * 2)
    # A first bin of fewer than two positions would hold no target.
    return [0, *(edge for edge in edges if 2 <= edge < length), length]


def _fine_edges(length: int) -> list[int]:
    width = max(2, length // FINE_BINS)
    return [*range(0, length - width + 1, width), length]
