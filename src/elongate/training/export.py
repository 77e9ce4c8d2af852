"""The folder that a run leaves for others: weights, configuration, tokenizer and what came with the checkpoint.

Every export is opened again before it gets its name, as its readers open it, and compared with the model in memory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate.atomic import written_aside
from elongate.console import say
from elongate.data.tokenizer.comparison import verify_saved
from elongate.data.tokenizer.subword import special_ids
from elongate.training.companions import complete_config, copy_companions, state_length

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel
    from elongate.models.model import Model
    from elongate.models.stored_dtype import StoredDtypes
    from elongate.training.job import Job
    from elongate.training.run_directory import RunDirectory


def export(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, source: Model | None = None, dtypes: StoredDtypes | None = None
) -> dict[str, Any]:
    """Write a folder that plain transformers opens if it can express the model, and return how that was verified.

    `source` decides the dtype, unless `dtypes` does, and brings further files; without one, weights are stored in float32.
    The weights of the model are rounded to what is stored. Raises `RunError` if the folder, opened again, is not the model
    in memory.
    """
    from elongate.models.precision import widened
    from elongate.models.reopened import verify_reopened
    from elongate.models.stored_dtype import StoredDtypes

    if dtypes is None:
        dtypes = StoredDtypes() if source is None else source.stored_dtypes()
    dtypes.round_(model.network)
    length = model.positions.lengths[1] or model.original_length
    original_length = model.positions.lengths[0] or length
    with widened(model.network), written_aside(folder) as aside:
        model.save(aside, dtypes)
        tokenizer.save(aside)
        files = source.files() if source is not None else None
        copied = copy_companions(files, aside) if files is not None else []
        complete_config(aside, special_ids(aside))
        state_length(aside, original_length, length)
        verified = verify_reopened(model, aside, original_length, length)
        verified["tokenizer"] = verify_saved(tokenizer, aside, length)
    return {"dtype": str(dtypes), "copied": copied, "verified": verified}


def export_run(job: Job, model: LanguageModel, tokenizer: Tokenizer, directory: RunDirectory, results: dict[str, Any]) -> None:
    """Export the trained model if that is not done yet, and say what plain transformers does with it.

    Afterwards the weights of the model are those that are exported, so that they are the ones that are measured.
    """
    dtypes = _stored_dtypes(job)
    if directory.model.exists() and "export" in results:
        dtypes.round_(model.network)
        return
    results["export"] = export(model, tokenizer, directory.model, job.model, dtypes)
    directory.write_results(results)
    command = f"evaluate.py checkpoint={directory.path}"
    if not model.position.is_plain:
        say(f"plain transformers cannot express {model.position.word}: evaluate with python {command}")
    elif not (attention := job.strategy.measured_attention).is_full:
        say(f"plain transformers opens {directory.model} with full attention, {command} with {attention.word}")


def _stored_dtypes(job: Job) -> StoredDtypes:
    """Those of the model; weights that were trained in bfloat16 are stored in it, unless another dtype was chosen."""
    import torch

    dtypes = job.model.stored_dtypes()
    if job.precision != "bf16_pure" or job.model.export_dtype != "auto":
        return dtypes
    return replace(dtypes, usual=torch.bfloat16)
