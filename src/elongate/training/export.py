"""The folder that a run leaves for others: weights, configuration and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from elongate.atomic import written_aside
from elongate.console import say

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel
    from elongate.training.job import Job
    from elongate.training.run_directory import RunDirectory


def export(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a folder that plain transformers opens if it can express the model."""
    with written_aside(folder) as aside:
        model.save(aside)
        tokenizer.save(aside)


def export_run(job: Job, model: LanguageModel, tokenizer: Tokenizer, directory: RunDirectory) -> None:
    """Exports the trained model if that is not done yet, and says what plain transformers does with it."""
    if directory.model.exists():
        return
    export(model, tokenizer, directory.model)
    command = f"evaluate.py checkpoint={directory.path}"
    if not model.position.is_plain:
        say(f"plain transformers cannot express {model.position.word}: evaluate with python {command}")
    elif not (attention := job.strategy.measured_attention).is_full:
        say(f"plain transformers opens {directory.model} with full attention, {command} with {attention.word}")
