"""Who sees whom? An attention is a list of regions over one document; one kernel runs them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.context.attention.kernel.blocks import Block, Range

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    # From positions in the document to other positions, or to factors of the query.
    PositionMap = Callable[[Int[Tensor, "*batch length"]], Int[Tensor, "*batch length"]]
    Scale = Callable[[Int[Tensor, "*batch length"]], Float[Tensor, "*batch length"]]


@dataclass(frozen=True)
class Region:
    """Blocks of the score matrix that share their heads and the way in which queries and keys are rotated.

    Within one head no pair of query and key lies in two regions, and every query sees at least one key.
    """

    blocks: tuple[Block, ...]
    heads: Range | None = None  # of the query heads; None: all
    query_positions: PositionMap | None = None  # None: as they are
    key_positions: PositionMap | None = None
    query_scale: Scale | None = None  # None: 1


class Attention(ABC):
    """A frozen dataclass: the blocks of a length are computed once and remembered by its fields."""

    word: ClassVar[str]
    rotates: ClassVar[bool] = False  # its regions see positions of their own: queries and keys reach them as they were before rotary
    is_full: ClassVar[bool] = False  # every token sees its whole document, or all of it that is not ahead

    def needs(self) -> frozenset[str]:
        """What a model must have for this attention to act on it."""
        return frozenset({"regions", "rotary", "causal"} if self.rotates else {"regions"})

    def check(self, length: int, original_length: int) -> None:  # noqa: B027  # most fit every length
        """Raises `ConfigError` where the attention cannot act on sequences of `length` tokens."""

    def for_length(self, length: int, original_length: int) -> Attention:
        """For sequences of `length` tokens, with every size filled in that follows from the lengths: what `regions` are taken from."""
        return self

    def narrowed(self, width: int) -> Attention | None:
        """For a layer that has a causal window of its own: what both allow. None: this attention cannot act on such a layer."""
        return None

    @abstractmethod
    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        """For one document of `length` tokens; no larger than what is seen. `causal`: the model must not look ahead."""
