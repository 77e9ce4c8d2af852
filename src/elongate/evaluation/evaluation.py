"""What a model is measured by.

An evaluation has one header, which says what is measured, and measures any number of models, each a row. How
its figures are shown is in presentation/, from which it inherits a default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import RunError, require
from elongate.evaluation.measurement.samples import Part, Samples
from elongate.evaluation.presentation.presentation import Presentation

if TYPE_CHECKING:
    from pathlib import Path

    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.data.tokens import Tokens
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

# Begins the keys of figures during the training in lines of `metrics.jsonl`; the word of the evaluation follows.
FOLLOWED = "held_out_"


@dataclass(frozen=True)
class Setting:
    """What all models of one comparison are measured on."""

    held_out: Tokens
    tokenizer: Tokenizer
    original_length: int
    target_length: int
    seed: int
    reading: Scorer  # how the models are read
    samples: Part = field(default_factory=lambda: Samples().part("", ""))  # the results of single samples

    @property
    def lengths(self) -> dict[str, int]:
        """The original and the target length, as they begin a header."""
        return {"original_length": self.original_length, "target_length": self.target_length}


class Evaluation(Presentation, ABC):
    """A dataclass in the module of its word, with a YAML file of that name in conf/evaluation."""

    word: ClassVar[str]
    is_measured: ClassVar[bool] = True  # false: it draws conclusions from what others have measured

    can_follow: ClassVar[bool] = False  # it has a figure during the training

    compares: ClassVar[tuple[str, ...]] = ()  # evaluations whose samples it compares: it needs one of them

    def check_alone(self) -> None:  # most evaluations need no other model
        """Raise `ConfigError` if it cannot be measured on one model alone."""

    def reads(self) -> list[Path]:
        """Files and folders, other than the data, that its figures depend on."""
        return []

    def check(self, reading: Scorer) -> None:  # most evaluations work on every model
        """Raise `ConfigError` if models that are read this way cannot be measured."""

    def num_tokens(self, header: dict[str, Any]) -> int | None:
        """Tokens that a row reads, for estimates of time; None if that is not known before."""
        return None

    @abstractmethod
    def header(self, setting: Setting) -> dict[str, Any]:
        """What is measured, and on how many samples. Raises `ConfigError` if the held-out text is too short for it."""

    @abstractmethod
    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        """One row: figures with their standard errors. Calls `tick` with a few words before each piece of work."""

    def follow(self, model: LanguageModel, setting: Setting) -> float:
        """Return one figure of a network in evaluation mode, on a small sample. Lower is better. Only where `can_follow`."""
        raise AssertionError(f"{self.word} has no figure during the training")

    def conclude(self, samples: Samples, setting: Setting) -> dict[str, Any]:
        """Figures that need all rows and all evaluations."""
        return {}


def run_evaluation(evaluation: Evaluation, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
    """The row of a model. Raises `RunError` if memory runs out."""
    try:
        return evaluation.measure(model, setting, tick)
    except (MemoryError, RuntimeError) as fault:
        # torch raises a class of its own on a GPU, and a RuntimeError that says so on a CPU.
        if not isinstance(fault, MemoryError) and type(fault).__name__ != "OutOfMemoryError" and "allocate memory" not in str(fault):
            raise
        reason = (str(fault) or type(fault).__name__).splitlines()[0]
        rule = f"evaluation {evaluation.word} needs more memory than there is ({reason})"
        remedy = f"earlier measurements are kept: measure {evaluation.word} on shorter texts, or leave it out of evaluation"
        raise RunError(f"{rule}; {remedy}") from fault


def check_writes(reading: Scorer, key: str, value: Any, remedy: str) -> None:
    """Raise `ConfigError` for a model that cannot continue a text."""
    require(reading.writes, key, value, "needs a model that can generate text: a causal one, or an autoencoder trained to continue", remedy)


def add_row(section: dict[str, Any], row: str, figures: dict[str, Any]) -> None:
    """Put a row into a section; figures that form several tables go into each of them."""
    if all(isinstance(value, dict) for value in figures.values()):
        for table, value in figures.items():
            section.setdefault(table, {})[row] = value
    else:
        section[row] = figures
