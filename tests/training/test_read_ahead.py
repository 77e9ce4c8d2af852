"""Batches that are built while a step runs: the same in the same order, and nothing runs on after the last one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.program import without_times

from elongate.data.sequences import Sequences
from elongate.errors import RunError
from elongate.training.read_ahead import read_ahead
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("next-batch")]


def test_one_step_is_built_ahead_in_one_thread() -> None:
    begun: dict[int, threading.Event] = {step: threading.Event() for step in range(3, 7)}
    names: list[str] = []

    def build(step: int) -> int:
        names.append(threading.current_thread().name)
        begun[step].set()
        return step * step

    iterator = read_ahead(build, range(3, 7))
    for step in range(3, 7):
        assert next(iterator) == step * step
        if step < 6:
            assert begun[step + 1].wait(10), "the next one is built before it is asked for"
        assert not any(begun[later].is_set() for later in range(step + 2, 7))
    assert list(iterator) == []
    assert set(names) == {"next-batch_0"}
    assert threads() == []


def test_a_fault_is_raised_at_its_step_and_ends_the_thread() -> None:
    def build(step: int) -> int:
        if step == 2:
            raise RunError("the disk is gone")
        return step

    iterator = read_ahead(build, range(4))
    assert [next(iterator), next(iterator)] == [0, 1]
    with pytest.raises(RunError, match="the disk is gone"):
        next(iterator)
    assert threads() == []


def test_closing_waits_for_the_step_that_is_being_built() -> None:
    done = []
    iterator = read_ahead(done.append, range(100))
    next(iterator)
    iterator.close()
    assert done == [0, 1]
    assert threads() == []


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal", pytest.param("longce", marks=pytest.mark.grid)])
def test_a_run_that_reads_ahead_is_the_same_run(
    objective: str, build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, batch = [], Sequences.batch

    def noted(sequences: Sequences, first: int, count: int) -> Any:
        built.append(threading.current_thread() is threading.main_thread())
        return batch(sequences, first, count)

    monkeypatch.setattr(Sequences, "batch", noted)
    results = []
    for device in ("cuda", "cpu"):
        monkeypatch.setattr("elongate.training.loop._READ_AHEAD", (device,))
        data = [
            "data=text",
            f"data.path={text_folder}",
            "evaluation=[]",
            "context/curriculum=fixed",
            "device=cpu",
            f"objective={objective}",
        ]
        directory = RunDirectory(tmp_path / device)
        directory.path.mkdir()
        run(build_tiny("steps=3", "training.checkpoint_steps=2", *data), directory)
        lines = [json.loads(line) for line in directory.metrics.read_text().splitlines()]
        results.append((without_times(lines), directory.read_results()["data"], (directory.model / "model.safetensors").read_bytes()))
    assert results[0] == results[1]
    assert built == [True] * 3 + [objective == "longce"] * 3
    assert threads() == []


@pytest.mark.slow
def test_a_run_ends_with_the_fault_of_the_thread(
    build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Sequences.batch

    def failing(sequences: Sequences, first: int, count: int) -> Any:
        if first:
            raise RunError("the disk is gone")
        return batch(sequences, first, count)

    monkeypatch.setattr(Sequences, "batch", failing)
    monkeypatch.setattr("elongate.training.loop._READ_AHEAD", ("cpu",))
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    data = ["data=text", f"data.path={text_folder}", "evaluation=[]", "context/curriculum=fixed", "device=cpu"]
    with pytest.raises(RunError, match="the disk is gone"):
        run(build_tiny("steps=3", *data), directory)
    assert len(directory.read_metrics()) == 1
    assert threads() == []
