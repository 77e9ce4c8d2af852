"""A model, as the configuration names it, and what it becomes once it is built.

`Model` is what one chooses (importable without torch); `LanguageModel` is the network with the few things that training and
evaluation ask of it. Nothing else in the project knows one architecture from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from elongate.context.position.rotary import Rotary
    from elongate.models.language_model import LanguageModel


class Model(ABC):
    word: ClassVar[str]
    fresh: ClassVar[bool]  # starts from random weights, so that a base can be trained
    has: ClassVar[frozenset[str] | None] = None  # what strategies and objectives build on; None: only known once the model is opened
    original_length: int | None  # tokens; None: only known once the model is opened
    block_length: int = 1  # tokens that are encoded together: what an objective has encoded is a whole number of them
    attention_dropout: float = 0.0  # of attention weights, in training; above 0 the whole matrix of them must exist

    @property
    def rotary(self) -> Rotary | None:
        """Its rotary embedding; None: it has none, or that is only known once the model is opened."""
        return None

    @abstractmethod
    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        """The network with its weights, on the CPU, in float32.

        `vocab_size` is the tokenizer's. Raises `ConfigError`.
        """
