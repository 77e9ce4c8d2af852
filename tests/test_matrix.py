"""Position × model: cells of docs/positions.md at tiny size, and the page itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
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
from tests.matrix import CELLS, HEAD, MODELS, ORIGINAL, TARGET, Cell, normalized, page
from tests.training.program import write_documents

PAGE = Path(__file__).parents[1] / "docs/positions.md"


@dataclass(frozen=True)
class Page:
    """The text of docs/positions.md. `test_the_page_is_up_to_date` compares all of it, the tests of cells compare parts of it."""

    marks: dict[Cell, str]
    notes: dict[str, str]  # `[1]` to the line of a refusal

    @staticmethod
    def read() -> Page:
        lines = PAGE.read_text().splitlines()
        head, *rows = [[text.strip(" `") for text in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
        marks = {Cell(model, row[0]): mark for row in rows for model, mark in zip(head[1:], row[1:], strict=True)}
        notes = {f"[{number}]": line for number, line in re.findall(r"^(\d+)\. `(.*)`$", PAGE.read_text(), re.MULTILINE)}
        return Page(marks, notes)

    @property
    def running(self) -> list[Cell]:
        return [cell for cell, mark in self.marks.items() if mark.startswith("✓")]


def params(cells: Iterable[Cell], chosen: Container[Cell]) -> list[Any]:
    """Parameters of a test; all but the chosen ones belong to the full grid."""
    return [pytest.param(c, id=f"{c.word}-{c.model}", marks=() if c in chosen else pytest.mark.grid) for c in cells]


def spread(cells: list[Cell]) -> set[Cell]:
    """Every word on two models, and every model about equally often."""
    chosen: list[Cell] = []
    for word in dict.fromkeys(cell.word for cell in cells):
        use = Counter(cell.model for cell in chosen)
        chosen += sorted((cell for cell in cells if cell.word == word), key=lambda cell: use[cell.model])[:2]
    return set(chosen)


READ = Page.read()
REFUSED = {mark: cell for cell, mark in READ.marks.items() if mark in READ.notes}  # one cell for each note


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with a few documents. Cells of a model share its base."""
    folder = tmp_path_factory.mktemp("matrix")
    write_documents(folder / "text", 12)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for module in ("training.run", "evaluate"):  # drawing the report takes longer than training
            patched.setattr(f"elongate.{module}.write_report", lambda *arguments: {"images": {}, "tables": {}})
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("cell", params(READ.running, spread(READ.running)))
def test_a_cell_is_trained_measured_exported_and_opened_again(cell: Cell, workshop: Path, tmp_path: Path) -> None:
    more = ["tracking=none", "steps=2", "batch_tokens=128", "context.curriculum.base.steps=2", "data=text", "data.path=text"]
    more += ["evaluation=[curve]", "evaluation.curve.num_sequences=2", f"evaluation.curve.length={TARGET}"]
    more += ["context.position.search.iterations=0"] if cell.word == "longrope" else []
    job = cell.job(*more)
    assert READ.marks[cell] == ("✓" if job.strategy.position.is_plain else "✓ ours")
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


@pytest.mark.slow
@pytest.mark.parametrize("cell", params((cell for cell in READ.marks if cell not in READ.running), REFUSED.values()))
def test_a_refusal_is_one_line_with_a_choice_that_runs(cell: Cell) -> None:
    line = cell.refusal()
    assert line is not None
    assert normalized(line, cell) == READ.notes[READ.marks[cell]]
    assert f"model={cell.model} does not have; use " in line
    choice = line.rpartition("; use ")[2].split(",")[0]
    assert Cell(cell.model, choice.rpartition("=")[2]) in READ.running


def test_every_word_and_every_model_is_on_the_page() -> None:
    assert {path.stem for path in (conf_directory() / "model").glob("*.yaml")} - {"pretrained"} == set(MODELS)
    assert list(READ.marks) == CELLS
    assert set(READ.marks.values()) == {"✓", "✓ ours", *READ.notes}
    assert PAGE.read_text().startswith(HEAD)


@pytest.mark.grid
def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page()


def plain(cell: Cell, folder: Path) -> PreTrainedModel:
    opener = AutoModelForCausalLM if cell.model in ("gpt", "gpt2") else AutoModelForMaskedLM
    return opener.from_pretrained(folder)


def logits(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    model.network.eval()
    return model.logits(model.hidden(tokens))
