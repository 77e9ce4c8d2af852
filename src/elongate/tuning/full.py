"""Full tuning: every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.tuning.tuning import Tuning

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Full(Tuning):
    """Trains every weight."""

    word: ClassVar[str] = "full"
    trains_network: ClassVar[bool] = True

    def apply(self, model: LanguageModel, seed: int) -> None:
        pass

    def merge(self, model: LanguageModel) -> None:
        pass
