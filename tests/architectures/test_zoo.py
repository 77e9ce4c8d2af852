"""Cells of docs/architectures.md, and the page itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.architectures.cells import CELLS, Specimen, outcome
from tests.architectures.page import Page, written
from tests.architectures.zoo import ZOO

PAGE = Page.read()
# A masked network, experts with latent attention, a table, a hybrid, a tower.
HANDFUL = ["bert (masked)", "deepseek_v3", "gpt2", "lfm2", "qwen2_5_vl (multimodal)"]


def params() -> list[Any]:
    """The names of all rows; all but a handful belong to the full grid."""
    return [pytest.param(name, id=name, marks=pytest.mark.slow if name in HANDFUL else pytest.mark.grid) for name in sorted(ZOO)]


@pytest.mark.filterwarnings("ignore")  # transformers warns of what some architectures do
@pytest.mark.parametrize("name", params())
def test_a_row_of_the_page_is_what_its_cells_give(name: str, tmp_path: Path) -> None:
    specimen = Specimen(ZOO[name], tmp_path)
    assert [outcome(specimen, cell) for cell in CELLS] == PAGE.outcomes[name]


def test_the_page_has_the_rows_of_the_zoo_and_no_fault() -> None:
    assert list(PAGE.outcomes) == sorted(ZOO)
    assert len(PAGE.outcomes) >= 100
    assert not [row for row in PAGE.outcomes.values() if any("fault" in cell for cell in row)]
    assert written(PAGE.outcomes) == PAGE.text
