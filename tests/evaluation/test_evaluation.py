"""What all evaluations share: an end for want of memory in one line, and everything that was measured before it kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import evaluated

from elongate.errors import RunError
from elongate.evaluation.needle import Needle


def of_torch() -> Any:
    return torch.empty(2**50)


def of_numpy() -> Any:
    return np.empty(2**50)


@pytest.mark.parametrize("allocate", [of_torch, of_numpy])
def test_want_of_memory_is_told_and_what_came_before_stays(
    allocate: Callable[[], Any], ran: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = ran("run")
    monkeypatch.setattr(Needle, "measure", lambda *given: allocate())
    with pytest.raises(RunError) as caught:
        evaluated(directory.path, tmp_path / "again")
    assert str(caught.value).startswith("evaluation needle needs more memory than there is (")
    assert "give evaluation.needle shorter lengths" in str(caught.value)
    assert "after" in json.loads((tmp_path / "again/results.json").read_text())["curve"]["table"]


def test_other_faults_are_not_taken_for_it(ran: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = ran("run")
    monkeypatch.setattr(Needle, "measure", lambda *given: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        evaluated(directory.path, tmp_path / "again")
