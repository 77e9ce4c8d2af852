"""A model as the configuration describes it, before its weights exist.

`Model` is importable without torch and builds a `LanguageModel`: the network with the operations
that training and evaluation need. No other package distinguishes architectures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from elongate.context.position.rotary import Rotary
    from elongate.models.language_model import LanguageModel
    from elongate.models.stored_dtype import StoredDtypes


class Model(ABC):
    """What `model=…` selects."""

    word: ClassVar[str]
    fresh: ClassVar[bool]  # starts from random weights, so that a base can be trained
    has: ClassVar[frozenset[str] | None] = None  # what strategies and objectives rely on; None: unknown until opened
    original_length: int | None  # tokens; None: unknown until the model is opened
    block_length: int = 1  # tokens that are encoded together; an objective encodes whole blocks
    attention_dropout: float = 0.0  # of attention weights in training; above 0 their whole matrix must exist
    export_dtype: str = "auto"  # of the exported weights: auto (that of the checkpoint), float32, bfloat16 or float16

    @property
    def rotary(self) -> Rotary | None:
        """Return the rotary embedding, or None if it has none or that is unknown until the model is opened."""
        return None

    @property
    def tokenizer_source(self) -> str | None:
        """Return the hub id or folder of the model's own tokenizer, if it has one."""
        return None

    @property
    def fingerprint(self) -> str | None:
        """Return a hash that changes with the stored weights; None if there are none, or a hub keeps them."""
        return None

    def stored_dtypes(self) -> StoredDtypes:
        """Return the dtypes in which the model is exported: `export_dtype`, or those of the checkpoint."""
        import torch

        from elongate.models.stored_dtype import StoredDtypes, read_stored_dtypes

        if self.export_dtype != "auto":
            return StoredDtypes(getattr(torch, self.export_dtype))
        folder = self.files()
        return StoredDtypes() if folder is None else read_stored_dtypes(folder)

    def files(self) -> Path | None:
        """Return the folder of the checkpoint's files; None for a model with random weights."""
        return None

    @abstractmethod
    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        """Return the network with its weights, on the CPU, in float32. Raises `ConfigError`.

        `vocab_size` is that of the tokenizer.
        """

    def describe(self, vocab_size: int) -> LanguageModel:
        """Return the network without weights, on the meta device. Raises `ConfigError`."""
        import torch

        with torch.device("meta"):
            return self.build(vocab_size, seed=0)

    def restore_position(self, model: LanguageModel) -> None:  # noqa: B027  # most have none
        """Set the position that the checkpoint was trained with, if plain transformers cannot express it."""
