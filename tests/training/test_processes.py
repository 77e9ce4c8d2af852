"""Processes that are killed, wait for each other, or have no torch: the outcome is that of an undisturbed run.

`ELONGATE_KILLS=20 pytest tests/training/test_processes.py -k sigkill -s` kills more often and prints where.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.conftest import composed, leave_figures_empty
from tests.training.program import Program, outcome, without_times, write_documents

from elongate.build import build_job
from elongate.errors import ConfigError
from elongate.training import base as base_module
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

KILLS = int(os.environ.get("ELONGATE_KILLS", "2"))
WORDS = [
    *("experiment=smoke", "steps=8", "context.curriculum.base.steps=10", "training.checkpoint_steps=2", "data=text"),
    *("evaluation=[curve]", "evaluation.curve.num_sequences=4", "tracking=none"),
]
# A process is killed at a random moment after such a line.
PLACES = [r"base 64  step", r"extend 256  step|resuming from|measuring curve|.*already finished"]


@dataclass(frozen=True)
class Undisturbed:
    """A folder with a finished run."""

    cwd: Path
    words: list[str]  # of all runs here
    seconds: float  # that the run took
    outcome: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.cwd / "runs/gpt-yarn-smoke"


def start(words: list[str], folder: Path, *more: str) -> RunDirectory:
    """Runs a command in this process, in the current folder."""
    directory = RunDirectory(folder)
    directory.path.mkdir(parents=True, exist_ok=True)
    with directory.locked():
        run(build_job(*composed(*words, *more)), directory)
    return directory


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    cwd = tmp_path_factory.mktemp("undisturbed")
    write_documents(cwd / "text", 40)
    words = [*WORDS, f"data.path={cwd}/text"]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(cwd)
        leave_figures_empty(patched)
        began = time.monotonic()
        folder = start(words, cwd / "runs/gpt-yarn-smoke").path
        yield Undisturbed(cwd, words, time.monotonic() - began, outcome(folder))


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_result(undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random, killed = Random(KILLS), 0
    for number in range(KILLS):
        with Program(tmp_path, *undisturbed.words) as program:
            program.wait_for(PLACES[number % len(PLACES)] if number < len(PLACES) else "")
            time.sleep(random.uniform(0, undisturbed.seconds / 4))
            program.process.kill()
        killed += program.end() == -signal.SIGKILL
        print(f"killed after {program.lines[-1][1].strip()[:50] if program.lines else 'nothing'}")
    assert killed > 0
    monkeypatch.chdir(tmp_path)
    folder = start(undisturbed.words, tmp_path / "runs/gpt-yarn-smoke").path
    assert outcome(folder) == undisturbed.outcome


@pytest.mark.slow
def test_a_finished_run_is_reported_without_torch(undisturbed: Undisturbed, tmp_path: Path) -> None:
    weights = undisturbed.folder / "model/model.safetensors"
    before = weights.stat().st_mtime_ns
    with Program(undisturbed.cwd, *undisturbed.words, without_torch=tmp_path) as program:
        assert program.end() == 0, program.stderr
    assert program.printed(".*gpt-yarn-smoke is already finished")
    assert program.printed("Loss in nats")
    assert weights.stat().st_mtime_ns == before
    assert outcome(undisturbed.folder) == undisturbed.outcome


@pytest.mark.slow
def test_strategies_share_the_base_and_the_tokens(undisturbed: Undisturbed, capfd: pytest.CaptureFixture[str]) -> None:
    (base,) = undisturbed.cwd.glob("runs/bases/*-*")
    base_lines = without_times([json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()])
    outcomes = [undisturbed.outcome]
    for word in ("none", "pi"):
        outcomes.append(outcome(start(undisturbed.words, undisturbed.cwd / word, f"context={word}").path))
        assert f"base: reusing {base.relative_to(undisturbed.cwd)}" in capfd.readouterr().out
    assert [o["results"]["strategy"]["context"] for o in outcomes] == ["yarn", "none", "pi"]
    assert len({o["results"]["data"]["consumed_tokens_sha256"] for o in outcomes}) == 1
    assert len({o["weights"] for o in outcomes}) == 3
    assert all(o["metrics"][: len(base_lines)] == base_lines for o in outcomes)


@pytest.mark.slow
def test_one_of_two_runs_trains_the_base_and_the_other_waits(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with Program(tmp_path, *undisturbed.words, "name=a", "seed=1") as first:
        first.wait_for("base: .*, 10 steps at length 64")
        # Delayed, so that the other run must wait for the base, and this run's directory is in use.
        first.process.send_signal(signal.SIGSTOP)
        with pytest.raises(ConfigError, match="gpt-yarn-a: is in use by another process"):
            start(undisturbed.words, tmp_path / "runs/gpt-yarn-a", "name=a", "seed=1")

        def say(text: str) -> None:
            said.append(text)
            if "waiting for it" in text:
                first.process.send_signal(signal.SIGCONT)

        monkeypatch.setattr(base_module, "say", say)
        second = start(undisturbed.words, tmp_path / "runs/gpt-yarn-b", "name=b", "seed=1")
        assert first.end() == 0, first.stderr
    assert [text.startswith("base: reusing") for text in said] == [False, True]
    outcomes = [outcome(tmp_path / "runs/gpt-yarn-a"), outcome(second.path)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["weights"] != undisturbed.outcome["weights"]
    hashes = [o["results"]["data"]["consumed_tokens_sha256"] for o in (outcomes[0], undisturbed.outcome)]
    assert hashes[0] != hashes[1]


@pytest.mark.slow
def test_the_first_line_comes_before_torch(tmp_path: Path) -> None:
    with Program(tmp_path, "experiment=smoke", without_torch=tmp_path / "none") as program:
        assert program.end() != 0
    assert "torch was imported" in program.stderr
    lines = [line for _, line in program.lines]
    assert lines[0] == f"run directory: {tmp_path}/runs/gpt-yarn-smoke\n"
    assert lines[1] == "12 steps: base 8 at lr 0.002, length 64; extension 4 at lr 0.0005, length 256\n"
