"""Where is each token? A position is a dataclass whose fields are the parameters of its paper.

It acts on a model in one of three ways: it scales rotary frequencies (scaling.py), lengthens a table of learned
positions (table.py), or adds a bias to attention scores (alibi.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from elongate.context.position.rotary import Rotary


@runtime_checkable
class Positions(Protocol):
    """One kind of positions of a network: its rotary embeddings take a `Scaling`, its learned tables a `Table`."""

    def __bool__(self) -> bool:
        """Whether the network has positions of this kind."""

    def set(self, position: Any, original_length: int, length: int, /) -> dict[str, Any]:
        """Sets the positions, and returns how far the built network is from the closed form."""


@runtime_checkable
class Positioned(Protocol):
    """The parts of a model that a position sets."""

    @property
    def rotary(self) -> Positions: ...

    @property
    def learned(self) -> Positions: ...

    def set_slopes(self, slopes: Callable[[int], Float[np.ndarray, " heads"]], length: int) -> list[float]:
        """Switches the model's own positions off; returns the slopes of its heads, computed from their number."""


class Position(ABC):
    """`factor` is target_length / original_length throughout, at least 1."""

    word: ClassVar[str]
    changes_model: ClassVar[bool] = True  # false: the model keeps the positions that it was trained with
    is_plain: ClassVar[bool] = True  # plain transformers can express it
    from_the_start: ClassVar[bool] = False  # the model must be trained with it; a fresh base is
    is_identity_at_one: ClassVar[bool] = True  # a factor of 1 leaves the model as it was
    removes: ClassVar[frozenset[str]] = frozenset()  # capabilities that the model loses when the position acts

    @abstractmethod
    def needs(self, factor: float) -> frozenset[str]:
        """Capabilities that a model must have for this position to act on it."""

    def check(self, rotary: Rotary, factor: float) -> None:  # noqa: B027  # most suit every rotary embedding
        """Raises `ConfigError` if the position cannot act on this rotary embedding."""

    def check_length(self, length: int, original_length: int) -> None:  # noqa: B027  # most reach every length
        """Raises `ConfigError` if a model of `original_length` tokens cannot be extended to `length`."""

    @abstractmethod
    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        """Sets the model's positions for up to `length` tokens; returns the verified figures as JSON."""
