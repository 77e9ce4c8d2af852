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

from elongate.errors import ConfigError, RunError
from elongate.evaluation.measurement.lengths import doublings
from elongate.evaluation.measurement.statistics import ratio_of_sums
from elongate.evaluation.needle import Needle


def of_torch() -> Any:
    return torch.empty(2**50)


def of_numpy() -> Any:
    return np.empty(2**50)


def of_python() -> Any:
    raise MemoryError


@pytest.mark.parametrize("allocate", [of_torch, of_numpy, of_python])
def test_want_of_memory_is_told_and_what_came_before_stays(
    allocate: Callable[[], Any], ran: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = ran("run")
    monkeypatch.setattr(Needle, "measure", lambda *given: allocate())
    with pytest.raises(RunError) as caught:
        evaluated(directory.path, tmp_path / "again")
    assert str(caught.value).startswith("evaluation needle needs more memory than there is (")
    assert "measure needle on shorter texts" in str(caught.value)
    assert "after" in json.loads((tmp_path / "again/results.json").read_text())["curve"]["table"]


def test_other_faults_are_not_taken_for_it(ran: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = ran("run")
    monkeypatch.setattr(Needle, "measure", lambda *given: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        evaluated(directory.path, tmp_path / "again")


def test_another_text_in_the_same_place_is_measured_anew(ran: Callable[..., Any], text_folder: Path, tmp_path: Path) -> None:
    directory, _ = ran("run")
    first = evaluated(directory.path, tmp_path / "again")
    assert evaluated(directory.path, tmp_path / "again") == first
    for file in text_folder.iterdir():
        file.write_text(file.read_text().swapcase())
    changed = evaluated(directory.path, tmp_path / "again")
    assert changed["curve"]["table"]["after"]["loss"] != first["curve"]["table"]["after"]["loss"]
    assert changed["needle"]["after"]["log_probability"] != first["needle"]["after"]["log_probability"]


def test_what_an_evaluation_writes_into_its_checkpoints_folder_does_not_start_it_anew(ran: Callable[..., Any]) -> None:
    directory, _ = ran("run")
    evaluated(directory.path, directory.path / "evaluation")
    first = (directory.path / "evaluation/samples.jsonl").read_text()
    evaluated(directory.path, directory.path / "evaluation")
    assert (directory.path / "evaluation/samples.jsonl").read_text() == first


def test_a_gate_without_another_model_is_refused_before_anything_is_measured(ran: Callable[..., Any], tmp_path: Path) -> None:
    directory, _ = ran("run")
    with pytest.raises(ConfigError, match=r"evaluation\.gate\.base=null: names no other model"):
        evaluated(directory.path, tmp_path / "again", "evaluation=[curve,gate]")
    assert list((tmp_path / "again").iterdir()) == []


def test_doublings_end_where_they_are_to_end() -> None:
    assert doublings(32, 128) == [32, 64, 128]
    assert doublings(32, 96) == [32, 64, 96]
    assert doublings(32, 32) == [32]


def test_the_error_of_a_ratio_is_that_over_documents_and_unknown_for_one() -> None:
    sums, counts = np.array([4.0, 9.0, 2.0]), np.array([2.0, 3.0, 2.0])
    ratio, error = ratio_of_sums(np.tile(sums, 40), np.tile(counts, 40))
    assert ratio == pytest.approx(15 / 7)
    # A document drawn again and again, a hundred and twenty of them at a time.
    means = np.array([sums[d].sum() / counts[d].sum() for d in np.random.default_rng(1).integers(3, size=(4000, 120))])
    assert error == pytest.approx(means.std(), rel=0.05)
    assert ratio_of_sums(np.array([5.0, 0.0, 0.0]), np.array([3.0, 0.0, 0.0])) == (pytest.approx(5 / 3), None)
