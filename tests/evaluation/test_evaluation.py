"""Every evaluation: running out of memory keeps earlier measurements; another text is measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import TINY_CURVE_AND_NEEDLE, evaluated
from tests.evaluation.conftest import Run

from elongate.errors import ConfigError, RunError
from elongate.evaluation.evaluation import run_evaluation
from elongate.evaluation.measurement.lengths import doublings
from elongate.evaluation.measurement.statistics import mean, ratio_of_sums, standard_error
from elongate.evaluation.needle import Needle


def of_torch() -> Any:
    return torch.empty(2**50)


def of_numpy() -> Any:
    return np.empty(2**50)


def of_python() -> Any:
    raise MemoryError


@pytest.mark.parametrize("allocate", [of_torch, of_numpy, of_python])
def test_running_out_of_memory_is_one_line(allocate: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    monkeypatch.setattr(Needle, "measure", lambda *given: allocate())
    with pytest.raises(RunError) as caught:
        run_evaluation(Needle(), nothing, nothing, print)
    assert str(caught.value).startswith("evaluation needle needs more memory than there is (")
    assert "measure needle on shorter texts" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_exceptions_are_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    monkeypatch.setattr(Needle, "measure", lambda *given: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run_evaluation(Needle(), nothing, nothing, print)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_measurements_before_memory_ran_out_are_kept(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Needle, "measure", lambda *given: of_python())
    with pytest.raises(RunError):
        evaluated(finished.path, tmp_path / "again", *TINY_CURVE_AND_NEEDLE)
    assert "after" in json.loads((tmp_path / "again/results.json").read_text())["curve"]["table"]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_changed_text_at_the_same_path_is_measured_again(finished: Run, text_folder: Path, tmp_path: Path) -> None:
    words = [*TINY_CURVE_AND_NEEDLE, "data=text", f"data.path={text_folder}", f"data.cache={tmp_path}/cache"]
    first = evaluated(finished.path, tmp_path / "again", *words)
    samples = (tmp_path / "again/samples.jsonl").read_text()
    assert evaluated(finished.path, tmp_path / "again", *words) == first
    assert (tmp_path / "again/samples.jsonl").read_text() == samples  # with the seconds that each took
    for file in text_folder.iterdir():
        file.write_text(file.read_text().swapcase())
    changed = evaluated(finished.path, tmp_path / "again", *words)
    assert changed["curve"]["table"]["after"]["loss"] != first["curve"]["table"]["after"]["loss"]
    assert changed["needle"]["after"]["log_probability"] != first["needle"]["after"]["log_probability"]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_inside_the_checkpoints_folder_resumes(finished: Run) -> None:
    evaluated(finished.path, finished.path / "evaluation", *TINY_CURVE_AND_NEEDLE)
    first = (finished.path / "evaluation/samples.jsonl").read_text()
    evaluated(finished.path, finished.path / "evaluation", *TINY_CURVE_AND_NEEDLE)
    assert (finished.path / "evaluation/samples.jsonl").read_text() == first


@pytest.mark.slow
def test_a_gate_without_another_model_is_refused_before_anything_is_measured(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.gate\.base=null: names no other model"):
        evaluated(finished.path, tmp_path / "again", "evaluation=[curve,gate]")
    assert list((tmp_path / "again").iterdir()) == []


def test_doublings_end_at_the_last_length() -> None:
    assert doublings(32, 128) == [32, 64, 128]
    assert doublings(32, 96) == [32, 64, 96]
    assert doublings(32, 32) == [32]


def test_the_error_of_a_ratio_is_over_documents_and_none_for_a_single_one() -> None:
    sums, counts = np.array([4.0, 9.0, 2.0]), np.array([2.0, 3.0, 2.0])
    ratio, error = ratio_of_sums(np.tile(sums, 40), np.tile(counts, 40))
    assert ratio == pytest.approx(15 / 7)
    # Simulated: means of 120 documents drawn with replacement.
    means = np.array([sums[d].sum() / counts[d].sum() for d in np.random.default_rng(1).integers(3, size=(4000, 120))])
    assert error == pytest.approx(means.std(), rel=0.05)
    assert ratio_of_sums(np.array([5.0, 0.0, 0.0]), np.array([3.0, 0.0, 0.0])) == (pytest.approx(5 / 3), None)


def test_means_are_over_the_samples_that_were_measured() -> None:
    samples = np.array([[1.0, np.nan, 5.0], [2.0, np.nan, np.nan], [6.0, np.nan, np.nan]])
    assert mean(samples) == [3.0, None, 5.0]
    assert standard_error(samples) == [pytest.approx(7**0.5 / 3**0.5), None, None]  # variance 7 by hand
