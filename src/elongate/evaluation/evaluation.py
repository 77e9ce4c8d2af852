"""What a model is measured by. An evaluation has one header (what is measured) and measures any number of models, each a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import RunError, require
from elongate.evaluation.samples import Part, Samples

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.data.tokens import Tokens
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer


@dataclass(frozen=True)
class Setting:
    """What all models of one comparison are measured on."""

    held_out: Tokens
    tokenizer: Tokenizer
    original_length: int
    target_length: int
    seed: int
    reading: Scorer  # how the models are read
    samples: Part = field(default_factory=lambda: Samples().part("", ""))  # what each sample came to


class Evaluation(ABC):
    word: ClassVar[str]
    is_measured: ClassVar[bool] = True  # false: it concludes from what others have measured

    def check_alone(self) -> None:  # noqa: B027  # most can be
        """Raises `ConfigError` where it cannot be measured of a model without another beside it."""

    def reads(self) -> list[Path]:
        """Files and folders, beside the data, on which figures depend."""
        return []

    def check(self, reading: Scorer) -> None:  # noqa: B027  # most can be measured on every model
        """Raises `ConfigError` where models that are read so cannot be measured."""

    @abstractmethod
    def header(self, setting: Setting) -> dict[str, Any]:
        """What is measured, and on how many samples. Raises `ConfigError` where the held-out text is too short for it."""

    @abstractmethod
    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        """One row: figures with their standard errors. `tick` is called with a few words before each piece of work."""

    def conclude(self, samples: Samples, setting: Setting) -> dict[str, Any]:
        """Figures of all rows and evaluations together."""
        return {}


def measured(evaluation: Evaluation, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
    """The row of a model. Raises `RunError` where there is not enough memory for it."""
    try:
        return evaluation.measure(model, setting, tick)
    except (MemoryError, RuntimeError) as fault:
        # torch says so in a class of its own on a GPU, and in words on a CPU.
        if not isinstance(fault, MemoryError) and type(fault).__name__ != "OutOfMemoryError" and "allocate memory" not in str(fault):
            raise
        said = (str(fault) or type(fault).__name__).splitlines()[0]
        rule = f"evaluation {evaluation.word} needs more memory than there is ({said})"
        remedy = f"what was measured before it is kept: measure {evaluation.word} on shorter texts, or leave it out of evaluation"
        raise RunError(f"{rule}; {remedy}") from fault


def usual_lengths(setting: Setting, beyond: int = 2) -> list[int]:
    """The original length and its doublings to so many times the target; to the target for models that see both sides."""
    return doublings(setting.original_length, (1 if setting.reading.two_sided else beyond) * setting.target_length)


def doublings(first: int, last: int) -> list[int]:
    """Lengths from the first to the last; where the last is no doubling of the first, it ends them nevertheless."""
    lengths = [first]
    while lengths[-1] < last:
        lengths.append(min(2 * lengths[-1], last))
    return lengths


def check_writes(reading: Scorer, key: str, value: Any, remedy: str) -> None:
    """Raises `ConfigError` for a model that continues no text."""
    require(reading.writes, key, value, "needs text that is written, by a causal model or an autoencoder that learned to continue", remedy)


def check_depths(depths: list[float]) -> None:
    """Raises `ConfigError`. A depth that came twice would be taken for twice as many samples."""
    sound = bool(depths) and all(0 <= depth <= 1 for depth in depths) and len(set(depths)) == len(depths)
    require(sound, "depths", depths, "must be one or more depths between 0 and 1, unlike each other", "use {key}=[0,0.5,1]")


def add_row(section: dict[str, Any], row: str, figures: dict[str, Any]) -> None:
    """Puts a row into a section; figures that come in several tables go into each."""
    if all(isinstance(value, dict) for value in figures.values()):
        for table, value in figures.items():
            section.setdefault(table, {})[row] = value
    else:
        section[row] = figures


def mean(samples: np.ndarray) -> list[float | None]:
    """Over axis 0, of the samples that were measured (others are nan); None where none was."""
    return [float(column.mean()) if len(column) else None for column in _measured(samples)]


def standard_error(samples: np.ndarray) -> list[float | None]:
    """Of that mean; None where there are not two samples to tell."""
    return [float(column.std(ddof=1)) / len(column) ** 0.5 if len(column) > 1 else None for column in _measured(samples)]


def ratio_of_sums(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float | None]:
    """A mean over tokens of several documents, from the sum and the number of each, and its standard error over the documents.

    None where all tokens are of one document.
    """
    ratio = sums.sum() / counts.sum()
    residuals = (sums - ratio * counts) / counts.mean()
    return float(ratio), float(residuals.std(ddof=1) / len(residuals) ** 0.5) if (counts > 0).sum() > 1 else None


def _measured(samples: np.ndarray) -> list[np.ndarray]:
    return [column[column == column] for column in samples.T]  # nan is unlike itself
