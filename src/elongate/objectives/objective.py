"""What is learned: an objective turns sequences into inputs, targets and weights; every loss is Σ w·CE / Σ w."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Int
    from torch import Tensor, device

    from elongate.data.sequences import Batch


@dataclass(frozen=True)
class Example:
    """A batch as the network reads it. A target counts where `scored`; `positions` restart with each document, or are None."""

    inputs: Int[Tensor, "batch length"]
    targets: Int[Tensor, "batch length"]
    scored: Bool[Tensor, "batch length"]
    positions: Int[Tensor, "batch length"] | None

    def parts(self, rows: int) -> Iterator[Example]:
        """The same batch, `rows` sequences at a time."""
        for i in range(0, len(self.inputs), rows):
            part = slice(i, i + rows)
            positions = None if self.positions is None else self.positions[part]
            yield Example(self.inputs[part], self.targets[part], self.scored[part], positions)

    def to(self, device: device) -> Example:
        positions = None if self.positions is None else self.positions.to(device)
        return Example(self.inputs.to(device), self.targets.to(device), self.scored.to(device), positions)


class Objective(ABC):
    word: ClassVar[str]

    @abstractmethod
    def example(self, batch: Batch) -> Example:
        """The same for the same batch: an objective that draws at random draws from the batch's own tokens."""
