"""Where is each token? A position is a dataclass whose fields are its paper's knobs. It acts on a model in one of three ways: it scales
rotary frequencies (scaling.py), makes a longer table of learned positions (table.py), or biases attention (alibi.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from jaxtyping import Float

    from elongate.context.position.scaling import Rotary, Scaling
    from elongate.context.position.table import Table


@runtime_checkable
class Positioned(Protocol):
    """What a model does for positions. Each sets it, proves it on the network as it stands, and returns the proof."""

    def set_frequencies(self, scaling: Scaling, original_length: int, length: int) -> dict[str, Any]: ...

    def set_table(self, table: Table, original_length: int, length: int) -> dict[str, Any]: ...

    def set_slopes(self, slopes: Callable[[int], Float[np.ndarray, " heads"]], original_length: int, length: int) -> dict[str, Any]:
        """`slopes` gives those of a number of heads; the model's own positions are switched off."""


class Position(ABC):
    """`factor` is target_length / original_length throughout, at least 1."""

    word: ClassVar[str]
    is_plain: ClassVar[bool] = True  # plain transformers can express it
    from_the_start: ClassVar[bool] = False  # it is for models that were trained with it: the base of a fresh one is
    removes: ClassVar[frozenset[str]] = frozenset()  # what a model no longer has when it acts

    @abstractmethod
    def needs(self, factor: float) -> frozenset[str]:
        """What a model must have for this position to act on it."""

    def check(self, rotary: Rotary, factor: float) -> None:  # noqa: B027  # most suit every rotary embedding
        """Raises `ConfigError` where the position cannot act on such an embedding."""

    @abstractmethod
    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        """Sets the positions of a model for sequences of up to `length` tokens, and returns the proof that they are on."""
