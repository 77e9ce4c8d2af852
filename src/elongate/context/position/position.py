"""Where is each token? A position is a dataclass whose fields are its paper's knobs. It acts on a model in one of three ways, each a base
class of its own: it scales rotary frequencies (scaling.py), makes a longer table of learned positions (table.py), or biases attention.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from elongate.context.position.scaling import Rotary, Scaling
    from elongate.context.position.table import Table


@runtime_checkable
class Positioned(Protocol):
    """What a model does for positions. Each sets it, proves it on the network as it stands, and returns the proof."""

    def set_frequencies(self, scaling: Scaling, original_length: int, length: int) -> dict[str, Any]: ...

    def set_table(self, table: Table, original_length: int, length: int) -> dict[str, Any]: ...


class Position(ABC):
    """`factor` is target_length / original_length throughout, at least 1."""

    word: ClassVar[str]

    @abstractmethod
    def needs(self, factor: float) -> frozenset[str]:
        """What a model must have for this position to act on it."""

    def check(self, rotary: Rotary, factor: float) -> None:  # noqa: B027  # most suit every rotary embedding
        """Raises `ConfigError` where the position cannot act on such an embedding."""

    def check_length(self, length: int, original_length: int) -> None:  # noqa: B027  # most reach to every length
        """Raises `ConfigError` where a model of `original_length` tokens cannot be brought to `length`."""

    @abstractmethod
    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        """Sets the positions of a model for sequences of up to `length` tokens, and returns the proof that they are on."""
