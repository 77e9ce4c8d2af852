"""Where is each token? A position is a dataclass whose fields are its paper's knobs. It acts on a model in one of three ways: it scales
rotary frequencies (scaling.py), makes a longer table of learned positions (table.py), or biases attention (alibi.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
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


@runtime_checkable
class Bench(Protocol):
    """The model that is to be extended, not trained any further, for trying positions on texts as long as the target."""

    rotary: Rotary
    factor: float
    seed: int

    def losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        """The mean loss of each training document, in nats."""

    def held_out_losses(self, position: Position) -> Float[np.ndarray, " documents"]:
        """Of each held-out document; there may be none that is long enough."""

    def told(self, done: int, total: int, best: float) -> None:
        """How far the work has come."""


class Position(ABC):
    """`factor` is target_length / original_length throughout, at least 1."""

    word: ClassVar[str]
    changes_model: ClassVar[bool] = True  # false: the model keeps the positions that it was trained with
    is_plain: ClassVar[bool] = True  # plain transformers can express it
    from_the_start: ClassVar[bool] = False  # it is for models that were trained with it: the base of a fresh one is
    is_identity_at_one: ClassVar[bool] = True  # a factor of 1 leaves the model as it was
    removes: ClassVar[frozenset[str]] = frozenset()  # what a model no longer has when it acts

    @abstractmethod
    def needs(self, factor: float) -> frozenset[str]:
        """What a model must have for this position to act on it."""

    def check(self, rotary: Rotary, factor: float) -> None:  # noqa: B027  # most suit every rotary embedding
        """Raises `ConfigError` where the position cannot act on such an embedding."""

    def check_length(self, length: int, original_length: int) -> None:  # noqa: B027  # most reach to every length
        """Raises `ConfigError` where a model of `original_length` tokens cannot be brought to `length`."""

    def num_documents(self, factor: float) -> int:
        """Training documents as long as the target that it needs to find what it is before training; 0: it knows."""
        return 0

    def searched(self, bench: Bench) -> dict[str, Any]:
        """What it finds out on the model, as JSON knows it."""
        raise AssertionError("asked only where documents are needed")

    def found(self, file: Path) -> Position:
        """What it becomes by what it found out, written to a JSON file."""
        raise AssertionError("asked only where documents are needed")

    @abstractmethod
    def act(self, model: Positioned, original_length: int, length: int) -> dict[str, Any]:
        """Sets the positions of a model for sequences of up to `length` tokens, and returns the proof that they are on."""
