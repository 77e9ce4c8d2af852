"""Position × model: each cell of docs/positions.md, run at tiny size, and the page itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from elongate.errors import ConfigError
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory
from tests.matrix import CELLS, TARGET, Cell, page

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.word}-{cell.model}")
def test_a_cell_runs_past_the_original_length_or_is_refused_in_one_line(
    cell: Cell, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["tracking=none", "steps=2", "batch_tokens=128", "context.curriculum.base.steps=2", "data=text", f"data.path={text_folder}"]
    more += ["evaluation=[curve]", "evaluation.curve.num_sequences=2", f"evaluation.curve.length={TARGET}"]
    if cell.refusal() is not None:
        with pytest.raises(ConfigError) as refused:
            cell.job(*more)
        assert "\n" not in str(refused.value)
        assert "; use " in str(refused.value)
        return
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    results = run(cell.job(*more), directory)
    assert all(loss is not None and np.isfinite(loss) for loss in results["curve"]["table"]["after"]["loss"][-1:])
    opened = Pretrained(source=str(directory.model)).build(257, seed=0)
    assert opened.network.config.model_type
