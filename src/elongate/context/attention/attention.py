"""Who sees whom? An attention becomes a pattern: regions of one document's score matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.context.attention.kernel.blocks import Block, Range

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    # Maps positions in the document to other positions, or to factors of the query.
    PositionMap = Callable[[Int[Tensor, "*batch length"]], Int[Tensor, "*batch length"]]
    Scale = Callable[[Int[Tensor, "*batch length"]], Float[Tensor, "*batch length"]]


@dataclass(frozen=True)
class Region:
    """Blocks of the score matrix that share their heads and the rotation of queries and keys.

    Within one head no pair of query and key is in two regions, and every query sees at least one key.
    """

    blocks: tuple[Block, ...]
    heads: Range | None = None  # query heads; None: all
    query_positions: PositionMap | None = None  # None: the true positions
    key_positions: PositionMap | None = None  # None: the true positions
    query_scale: Scale | None = None  # None: 1
    window: int | None = None  # its width, if the blocks are those of a window: some operators compute it in one call


class Pattern(ABC):
    """An attention for sequences of one length: every size is known.

    A frozen dataclass, because the blocks of a document length are computed once and cached by its fields.
    """

    word: ClassVar[str]
    rotates: ClassVar[bool] = False  # its regions have positions of their own: the kernel rotates queries and keys
    is_full: ClassVar[bool] = False  # every token sees its whole document, or all of it that is not ahead

    @abstractmethod
    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        """Regions of one document of `length` tokens. `causal`: no query sees a key ahead of it."""

    def unseen(self, query: int) -> Range:
        """Tokens that no query from this one on sees in a causal model: a cache can drop them. It is the same for every length."""
        return 0, 0

    def within_window(self, width: int) -> Pattern:
        """The pattern of a layer that has its own causal window of `width` tokens: what both allow."""
        raise AssertionError(f"{self.word} does not act within windows; checked when the model was built")

    def within_chunks(self, size: int) -> Pattern:
        """The pattern of a layer whose chunks of `size` tokens see only themselves: what both allow."""
        raise AssertionError(f"{self.word} does not act within chunks; checked when the model was built")


class Attention(ABC):
    """A choice of `context/attention`: a frozen dataclass of settings. Some of them can be derived from the lengths."""

    word: ClassVar[str]
    rotates: ClassVar[bool] = False  # as in its pattern
    is_full: ClassVar[bool] = False  # as in its pattern
    acts_within_windows: ClassVar[bool] = False  # its pattern also acts on layers that have a window of their own

    def needs(self) -> frozenset[str]:
        """Capabilities that a model must have for this attention to act on it."""
        return frozenset({"regions", "rotary", "causal"} if self.rotates else {"regions"})

    def check(self, length: int, original_length: int) -> None:  # noqa: B027  # most fit every length
        """Raises `ConfigError` if the attention cannot act on sequences of `length` tokens."""

    @abstractmethod
    def for_length(self, length: int, original_length: int) -> Pattern:
        """The pattern for sequences of `length` tokens."""
