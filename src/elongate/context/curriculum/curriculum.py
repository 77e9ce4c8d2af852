"""How does the length grow during training? A curriculum is a list of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from elongate.errors import require


@dataclass(frozen=True)
class Stage:
    """A part of the training at one length; the position's factor follows the stage."""

    name: str
    length: int  # tokens of a sequence
    steps: int  # optimizer steps
    sampled_below: int | None = None  # positions of a sequence are sampled below it; None: they are 0, 1, 2 …

    @property
    def reach(self) -> int:
        """Number of positions: the largest position of the stage is below it."""
        return self.length if self.sampled_below is None else self.sampled_below


@dataclass(frozen=True, kw_only=True)
class Base:
    """The training of a fresh model at its original length; runs that only differ in the extension share it."""

    steps: int = 600  # optimizer steps, at least 1
    lr_ratio: float = 4.0  # peak learning rate as a multiple of optimizer.lr, which is the extension's, above 0
    directory: str = "runs/bases"  # where bases are stored

    def __post_init__(self) -> None:
        remedy = "use context/curriculum=fixed for a fresh model without a base"
        require(self.steps > 0, "steps", self.steps, "must be at least 1", remedy)
        require(self.lr_ratio > 0, "lr_ratio", self.lr_ratio, "must be above 0", "use {key}=4")


class Curriculum(ABC):
    """A rule for the lengths of training."""

    word: ClassVar[str]
    base: Base | None = None  # None: training starts from the model as it is

    @abstractmethod
    def stages(self, original_length: int, target_length: int, steps: int) -> list[Stage]:
        """The stages after the base; the sum of their steps is `steps`."""
