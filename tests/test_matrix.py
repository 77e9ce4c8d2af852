"""Position × model: cells of docs/positions.md at tiny size, and the page itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from elongate.cli import conf_directory
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory
from tests.conftest import evaluated
from tests.matrix import CELLS, MODELS, ORIGINAL, TARGET, Cell, page

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/positions.md"


def running() -> list[Cell]:
    """The cells that run, as the page says; `test_the_page_is_up_to_date` checks the page."""
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    models, *words = [[text.strip("`") for text in row] for row in rows]
    marks = {Cell(model, row[0]): mark for row in words for model, mark in zip(models[1:], row[1:], strict=True)}
    return [cell for cell in CELLS if marks[cell].startswith("✓")]


def covering(cells: list[Cell]) -> list[Any]:
    """All cells; every word on two models, and every model equally often, outside the full grid."""
    chosen: list[Cell] = []
    for word in dict.fromkeys(cell.word for cell in cells):
        use = Counter(cell.model for cell in chosen)
        chosen += sorted((cell for cell in cells if cell.word == word), key=lambda cell: use[cell.model])[:2]
    return [pytest.param(cell, id=f"{cell.word}-{cell.model}", marks=() if cell in chosen else pytest.mark.grid) for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("cell", covering(running()))
def test_a_cell_is_trained_measured_exported_and_opened_again(
    cell: Cell, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("training.run", "evaluate"):  # drawing the report takes longer than training
        monkeypatch.setattr(f"elongate.{module}.write_report", lambda *arguments: {"images": {}, "tables": {}})
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
    again = evaluated(directory.path, tmp_path / "evaluated")
    assert again["curve"]["table"]["after"]["loss"] == pytest.approx(losses, abs=1e-5)
    if not job.strategy.position.is_plain:
        with pytest.raises(ValueError, match="elongate-"):
            AutoConfig.from_pretrained(directory.model)
        return
    model = Pretrained(source=str(directory.model)).build(257, seed=0)
    for length in (ORIGINAL, TARGET):
        tokens = torch.randint(257, (2, length), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            # Opened for each length, because dynamic NTK depends on earlier calls.
            assert_close(plain(cell, directory.model)(tokens).logits, logits(model, tokens), rtol=0, atol=1e-5)


def test_every_model_is_in_the_matrix() -> None:
    assert {path.stem for path in (conf_directory() / "model").glob("*.yaml")} - {"pretrained"} == set(MODELS)


@pytest.mark.slow
def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page()


@pytest.mark.slow
def test_every_refusal_is_one_line_with_a_choice_that_runs() -> None:
    for cell in CELLS:
        if (line := cell.refusal()) is not None:
            assert "\n" not in line
            assert f"model={cell.model} does not have; use " in line
            choice = line.rpartition("; use ")[2].split(",")[0]
            assert Cell(cell.model, choice.rpartition("=")[2]).refusal() is None


def plain(cell: Cell, folder: Path) -> PreTrainedModel:
    opener = AutoModelForCausalLM if cell.model in ("gpt", "gpt2") else AutoModelForMaskedLM
    return opener.from_pretrained(folder)


def logits(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    model.network.eval()
    return torch.nn.functional.linear(model.head_inputs(model.hidden(tokens)), *model.head)
