"""The teacher of an objective: a checkpoint, or the model before its extension.

A teacher reads with full attention at the positions that it was trained with, without gradient and dropout. Tokens at
positions that it was not trained on are read, but nothing is learned from what it makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from elongate.errors import require
from elongate.models.source import ModelSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from elongate.models.language_model import LanguageModel
    from elongate.models.model import Model

Kind = Literal["forward_kl", "reverse_kl", "jensen_shannon"]
TOKENS = 2048  # tokens with activations at a time


@dataclass(frozen=True)
class Divergence:
    """How a student is compared with its teacher: α·CE + (1 − α)·τ²·D."""

    kind: Kind = "forward_kl"  # KL(teacher ‖ student), KL(student ‖ teacher), or the mean of both to their average
    alpha: float = 0.5  # share of the cross-entropy, from 0 to 1
    temperature: float = 1.0  # τ, above 0


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """Which model teaches."""

    source: str | None = None  # hub id or folder; null: the model before the extension
    revision: str | None = None  # of the hub's repository: branch, tag or commit

    def __post_init__(self) -> None:
        needless = self.source is None and self.revision is not None
        require(not needless, "revision", self.revision, "has no effect without a source", "use {key}=null, or name a teacher")

    def check(self, key: str) -> None:
        """Raises `ConfigError` for a folder without a model. Nothing is looked up on the hub."""
        if self.source is not None:
            ModelSource(self.source, self.revision).require_model(key)

    @property
    def is_original(self) -> bool:
        """Return whether the model before the extension teaches."""
        return self.source is None

    @property
    def fingerprint(self) -> str | None:
        """Return a hash that changes with the weights of a folder; None for a hub id or the model itself."""
        return None if self.source is None else ModelSource(self.source, self.revision).fingerprint()

    @property
    def model(self) -> Model:
        """Return the checkpoint that teaches. Call only if there is a source."""
        from elongate.models.pretrained import Pretrained

        assert self.source is not None, "the model before the extension is opened elsewhere"
        return Pretrained(source=self.source, revision=self.revision)


class Teacher:
    """An opened teacher. Its weights are frozen and belong to no checkpoint."""

    def __init__(self, model: LanguageModel, length: int) -> None:
        model.network.eval().requires_grad_(False)
        self.model = model
        self.length = length  # tokens that its positions were trained on

    def read(
        self, inputs: Int[Tensor, "batch length"], positions: Int[Tensor, "batch length"] | None
    ) -> tuple[Float[Tensor, "batch known dim"], Bool[Tensor, "batch length"]]:
        """Return the inputs of its head for the first tokens of each row, and for which tokens they can be learned from.

        Documents that are isolated for the student are isolated here too. Sampled positions of a student are replaced by
        plain ones: the teacher reads the positions that it knows, and the student those that it must learn.
        """
        import torch

        from elongate.scoring.reading import read

        model, count = self.model, inputs.shape[1]
        plain = torch.arange(count, device=inputs.device).expand_as(inputs)
        own = plain if positions is None else torch.minimum(positions, plain)
        known = own < self.length
        if bool((own == plain).all()):
            inputs, within = inputs[:, : self.length], None
        else:
            within = own % self.length  # a table of positions has no others
        found = []
        step = max(1, TOKENS // inputs.shape[1])
        with torch.no_grad(), model.autocast():
            for row in range(0, len(inputs), step):
                rows = slice(row, row + step)
                chunks = read(model, inputs[rows], None if within is None else within[rows], TOKENS)
                found.append(torch.cat([self._kept(hidden) for _, hidden in chunks], dim=1))
        return torch.cat(found), known

    def close(self) -> None:
        """Free the memory of the weights."""
        self.model.network.to("meta")

    def share(self, weights: Mapping[str, Any]) -> None:
        """Use the memory of the given parameters where they are frozen. Their values must be those of the teacher."""
        for name, own in self.model.network.named_parameters():
            if not weights[name].requires_grad:
                own.data = weights[name].data

    def _kept(self, hidden: Float[Tensor, "rows chunk dim"]) -> Float[Tensor, "rows chunk dim"]:
        """Return the inputs of the head in the precision that the head uses."""
        import torch

        states = self.model.head_inputs(hidden)
        return states.to(torch.bfloat16) if self.model.precision == "bf16" else states
