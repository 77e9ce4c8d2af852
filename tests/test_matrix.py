"""Position × model: each cell of docs/positions.md, run at tiny size, and the page itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from elongate.cli import conf_directory
from elongate.evaluate import evaluate_checkpoint
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory
from tests.matrix import CELLS, MODELS, ORIGINAL, TARGET, Cell, page

ROOT = Path(__file__).parents[1]
TABLES = [("interpolate", "gpt2"), ("interpolate", "bert"), ("tile", "gpt2"), ("tile", "bert")]


def name(cell: Cell) -> str:
    return f"{cell.word}-{cell.model}"


def covering() -> list[Any]:
    """All of GPT's cells, and every word with one more model in turn; the others are of the full grid."""
    models, words = list(MODELS), list(dict.fromkeys(cell.word for cell in CELLS))
    others = len(models) - 1
    kept = {(word, models[1 + i % others]) for i, word in enumerate(words)} | {(word, "gpt") for word in words} | {*TABLES}
    return [pytest.param(cell, id=name(cell), marks=() if (cell.word, cell.model) in kept else pytest.mark.grid) for cell in CELLS]


@pytest.mark.slow
@pytest.mark.parametrize("cell", covering())
def test_a_cell_runs_from_training_to_reopened_export_or_is_refused(
    cell: Cell, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (line := cell.refusal()) is not None:
        assert_the_refusal_helps(cell, line)
        return
    monkeypatch.chdir(tmp_path)
    more = ["tracking=none", "steps=2", "batch_tokens=128", "context.curriculum.base.steps=2", "data=text", f"data.path={text_folder}"]
    more += ["evaluation=[curve]", "evaluation.curve.num_sequences=2", f"evaluation.curve.length={TARGET}"]
    more += ["context.position.search.iterations=0"] if cell.word == "longrope" else []
    job = cell.job(*more)
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    results = run(job, directory)
    losses = results["curve"]["table"]["after"]["loss"]
    assert results["curve"]["table"]["edges"][-1] == TARGET
    assert losses[-1] is not None
    assert np.isfinite(losses[-1])
    # Exported, and opened again as it was measured.
    assert evaluated(directory.path, tmp_path / "evaluated")["curve"]["table"]["after"]["loss"] == pytest.approx(losses, abs=1e-5)
    if not job.strategy.position.is_plain:
        with pytest.raises(ValueError, match="elongate-"):
            AutoConfig.from_pretrained(directory.model)
        return
    model = Pretrained(source=str(directory.model)).build(257, seed=0)
    for length in (ORIGINAL, TARGET):
        tokens = torch.randint(257, (2, length), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            # Opened anew: dynamic NTK remembers what it has read.
            assert_close(plain(cell, directory.model)(tokens).logits, logits(model, tokens), rtol=0, atol=1e-5)


def assert_the_refusal_helps(cell: Cell, line: str) -> None:
    """It is one line, and the word that it proposes runs."""
    assert "\n" not in line
    assert f"model={cell.model} does not have; use " in line
    remedy = line.rpartition("; use ")[2].split(",")[0]
    assert Cell(cell.model, remedy.rpartition("=")[2]).refusal() is None


def test_every_model_is_in_the_matrix() -> None:
    assert {path.stem for path in (conf_directory() / "model").glob("*.yaml")} - {"pretrained"} == set(MODELS)


@pytest.mark.slow
def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/positions.md").read_text() == page()


def evaluated(run: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("evaluate", overrides=[f"checkpoint={run}"])
    return evaluate_checkpoint(config, conf_directory(), folder)[0]


def plain(cell: Cell, folder: Path) -> PreTrainedModel:
    opener = AutoModelForCausalLM if cell.model in ("gpt", "gpt2") else AutoModelForMaskedLM
    return opener.from_pretrained(folder)


def logits(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    model.network.eval()
    return torch.nn.functional.linear(model.head_inputs(model.hidden(tokens)), *model.head)
