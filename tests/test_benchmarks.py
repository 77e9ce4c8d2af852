"""The benchmarks of long sequences and on a GPU: which rows they refuse, and the pages that they write."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from elongate.memory.plain import Plain
from tests.conftest import leave_figures_empty

KIB, MIB = 2**10, 2**20


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import long_sequences

    return long_sequences


@pytest.fixture
def page(benchmark: ModuleType) -> ModuleType:
    return sys.modules["long_sequences_page"]


def rows(page: ModuleType) -> list[object]:
    """The Trainer needs 400 KiB per token, TRL 80, ours 16, each plus 100 MiB. Ours takes 0.8 of the Trainer's time in each run."""
    common = {"precision": "fp32", "threads": 1, "loss": 10.0, "gradient_norm": 2.0, "versions": "torch 2, trl 1", "command": "python x.py"}
    made = []
    for peer, kib, pace in (("elongate stream", 16, 0.8), ("trainer", 400, 1.0), ("trl", 80, 1.5)):
        for length in (2048, 8192, 32768, 65536)[: None if peer == "elongate stream" else 3]:
            made.append(page.Row(run="1", peer=peer, length=length, kind="memory", peak_bytes=100 * MIB + length * kib * KIB, **common))
            # The second run is on a machine of half the speed, without TRL.
            for run, speed in (("1", 1), ("2", 2))[: 1 if peer == "trl" else 2]:
                seconds = pace * speed * length / 100
                made.append(page.Row(run=run, peer=peer, length=length, kind="time", seconds=seconds, cpu_seconds=seconds, **common))
    return made


def test_rows_are_read_as_written(page: ModuleType, tmp_path: Path) -> None:
    for row in rows(page):
        page.append_row(tmp_path / "rows.csv", row)
    assert page.read_rows(tmp_path / "rows.csv") == rows(page)


def test_ratios_are_taken_within_a_run(page: ModuleType) -> None:
    text = page.table(rows(page))
    lines = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for line in text.splitlines() if len(cells := line.split("|")) > 3}
    assert "KiB per further token, 8192 to 32768" in text
    assert lines["Trainer + checkpointing ÷ Elongate, stream"][-1] == "25.0×"
    assert lines["TRL SFTTrainer + checkpointing ÷ Elongate, stream"][-1] == "5.0×"
    assert lines["Elongate, stream ÷ Trainer + checkpointing"] == ["0.80", "0.80", "0.80", ""]
    # The median over both runs would compare a slow machine with a fast one.
    assert lines["Elongate, stream ÷ TRL SFTTrainer + checkpointing"] == ["0.53", "0.53", "0.53", ""]
    assert text.index("python x.py") < text.index("| |")


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [{"memory"}, {"time"}, {"memory", "time"}])
def test_the_page_shows_only_the_measured_kinds(page: ModuleType, tmp_path: Path, kinds: set[str]) -> None:
    page.write_page([row for row in rows(page) if row.kind in kinds], tmp_path)
    assert (tmp_path / "long_sequences.png").stat().st_size > 10_000
    assert (tmp_path / "long_sequences.md").read_text().count("## ") == len(kinds)


def test_a_row_with_another_loss_or_gradient_is_refused(page: ModuleType) -> None:
    first, *_ = have = rows(page)
    assert page.refusal(first, []) is None
    assert page.refusal(replace(first, loss=first.loss + 0.9e-4), have) is None
    refused = page.refusal(replace(first, peer="trl", loss=first.loss + 1.1e-4), have)
    assert "10.000110" in refused
    assert "10.000000" in refused
    assert "gradient norm" in page.refusal(replace(first, gradient_norm=2.01), have)
    assert page.refusal(replace(first, loss=float("nan")), have) is not None
    # bf16 is compared only with bf16.
    assert page.refusal(replace(first, precision="bf16", loss=11.0), have) is None


def test_a_refused_row_is_not_written(
    benchmark: ModuleType, page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = rows(page)[0]
    losses = {"elongate stream": 10.0, "trainer": 10.1}
    monkeypatch.setattr(
        benchmark, "measured", lambda peer, length, kind, given: replace(first, peer=peer, length=length, loss=losses[peer])
    )
    arguments = ["--peers", "trainer", "--ours", "stream", "--lengths", "2048", "--kinds", "memory", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["long_sequences.py", *arguments])
    with pytest.raises(SystemExit, match="1"):
        benchmark.main()
    assert [row.peer for row in page.read_rows(tmp_path / "long_sequences.csv")] == ["trainer"]
    assert "elongate stream, memory: refused: its loss is 10.000000, that of trainer 10.100000" in capsys.readouterr().out


def test_time_is_measured_in_alternating_order(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    given = Namespace(peers=["trainer", "trl"], ours=["stream"], lengths=[2048], kinds=["time"], repeats=2)
    assert [peer for peer, _, _ in benchmark.tasks(given)] == ["trainer", "trl", "elongate stream", "elongate stream", "trl", "trainer"]


@pytest.mark.slow
def test_all_peers_compute_the_same_step(benchmark: ModuleType, page: ModuleType) -> None:
    """Only peers whose packages are always installed, at a short length."""
    task = {"length": 96, "precision": "fp32", "threads": 1, "kind": "memory"}
    found = [
        page.Row(run="", command="", peer=peer, **task, **benchmark.measurement(peer, **task))
        for peer in ("plain", "elongate plain", "elongate checkpoint", "elongate stream,chunk_length=40")
    ]
    assert [page.refusal(row, found) for row in found] == [None] * 4


# -- on a GPU --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark on a GPU, with a planner that considers the simplest plan only and measures nothing."""
    import gpu

    monkeypatch.setattr("elongate.memory.planner.planner._KINDS", (Plain(),))
    monkeypatch.setattr("elongate.memory.planner.throughput.seconds_of", lambda work, device: 1.0)
    leave_figures_empty(monkeypatch)
    return gpu


def gpu_row(peer: str, length: int, speed: float, **figures: Any) -> dict[str, Any]:
    common = {"run": "1", "kind": "step", "shape": "1b", "loss": 10.0, "gradient_norm": 2.0, "card": "A card", "versions": "torch 2"}
    return {**common, "peer": peer, "length": length, "seconds": length / speed, "peak_bytes": 2**30, "command": "gpu.py", **figures}


def run_gpu(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    return int(ended.value.code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # names that transformers will drop in version 6
def test_a_dry_run_measures_every_row(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def installed(package: str) -> str:
        if package in ("trl", "liger-kernel"):
            raise PackageNotFoundError
        return "1"

    monkeypatch.setattr(gpu, "version", installed)
    # The capacity rows have `auto`, too.
    only = ["--only", "^(?!elongate auto)", "--lengths", "64"]
    assert run_gpu(gpu, monkeypatch, "--dry-run", *only, "--folder", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "liger 64: not measured: liger-kernel is not installed" in printed
    assert "trl 64: not measured: trl is not installed" in printed
    rows = gpu.read_rows(tmp_path / "gpu.jsonl")
    peers = ["elongate checkpoint", "elongate stream,chunk_length=40", "trainer"]
    assert [row.peer for row in rows if row.kind == "step"] == peers
    assert [row.kind for row in rows if row.kind != "step"] == ["adamw", "lora"]
    page = (tmp_path / "gpu.md").read_text()
    assert "scaled_dot_product_flash_attention_for_cpu_backward" in page
    assert "AdamW, all weights, tiny shape: `memory=plain`" in page
    assert (tmp_path / "gpu.png").exists()


def test_a_process_gets_its_task_and_prints_its_figures(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = gpu.Task("plain", "step", "tiny", 64, "cpu")
    monkeypatch.setattr(sys, "stdin", io.StringIO("start\n"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--measure", json.dumps(asdict(task))])
    gpu.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["loss"] == pytest.approx(math.log(512), abs=0.1)
    assert figures["seconds"] > 0


def test_a_process_that_ends_or_hangs_gives_a_reason(benchmark: ModuleType, tmp_path: Path) -> None:
    from processes import Child, Failed

    script = tmp_path / "script.py"
    script.write_text("""
import json, os, sys, time
task = json.loads(sys.argv[2])
sys.stdin.readline()
if task == "fails": raise ValueError("no such plan")
if task == "dies": os.kill(os.getpid(), 9)
if task == "hangs": time.sleep(600)
print("a word")
print(json.dumps(task))
""")
    assert Child(str(script), {"length": 8}).result() == {"length": 8}
    for task, timeout, reason in (("fails", None, "ValueError: no such plan"), ("dies", None, "signal 9"), ("hangs", 0.1, "stopped after")):
        with pytest.raises(Failed, match=reason):
            Child(str(script), task).result(timeout)
    waiting = Child(str(script), "never started")
    waiting.stop()


def test_gpu_rows_with_another_loss_are_refused(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(tasks: list[Any], deadline: float) -> Iterator[tuple[Any, dict[str, Any] | str]]:
        for task in tasks:
            figures = gpu_row(task.peer, task.length, 1000, loss=10.1 if "checkpoint" in task.peer else 10.0)
            own = ("run", "command", "peer", "kind", "shape", "length")
            yield task, {key: value for key, value in figures.items() if key not in own}

    monkeypatch.setattr(gpu, "measured", measured)
    monkeypatch.setattr(gpu, "unavailable", lambda task: None)
    only = ["--only", "liger|checkpoint 8192|auto", "--lengths", "8192", "--folder", str(tmp_path)]
    assert run_gpu(gpu, monkeypatch, *only) == 1
    assert "elongate checkpoint 8192: refused: its loss is 10.100000, that of liger 10.000000" in capsys.readouterr().out
    assert [row.peer for row in gpu.read_rows(tmp_path / "gpu.jsonl")] == ["liger", "elongate auto"]


def test_rows_beyond_the_budget_are_named(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measurement takes 30 seconds. The third has 10 left, and nothing is started after it."""
    clock, events = [0.0], []

    class Child:
        def __init__(self, script: str, task: dict[str, Any], environment: dict[str, str]) -> None:
            self.name = task["peer"]
            events.append(f"start {self.name}")

        def result(self, timeout: float) -> dict[str, float]:
            clock[0] += min(30.0, timeout)
            events.append(f"measure {self.name}")
            if timeout < 30:
                raise gpu.Failed("stopped after 10 s")
            return {"loss": 1.0}

        def stop(self) -> None:
            events.append(f"stop {self.name}")

    monkeypatch.setattr(gpu, "Child", Child)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    tasks = [gpu.Task(name, "step", "tiny", 64, "cpu") for name in "abcde"]
    found = [outcome for _, outcome in gpu.measured(tasks, 70.0)]
    assert found == [{"loss": 1.0}, {"loss": 1.0}, "stopped after 10 s", gpu.SPENT, gpu.SPENT]
    # The next process starts before the measurement, so that it can import its packages.
    assert events == [
        *("start a", "start b", "measure a", "start c", "measure b", "start d", "measure c", "stop d"),
    ]


def test_gpu_ratios_are_taken_within_a_run(gpu: ModuleType) -> None:
    from gpu_page import Row, table

    rows = [
        Row(**gpu_row("liger", 8192, 1000)),
        Row(**gpu_row("elongate auto", 8192, 1500, peak_bytes=2**29, plan="memory=checkpoint", plan_seconds=1.0)),
        Row(**gpu_row("liger", 8192, 4000, run="2")),
        Row(**gpu_row("trainer", 8192, 2000, run="2")),
        Row(**gpu_row("elongate auto", 524288, 100, kind="adamw", plan="memory=checkpoint")),
    ]
    lines = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for line in table(rows).splitlines() if len(cells := line.split("|")) > 3
    }
    assert lines["Elongate, auto: `memory=checkpoint`"] == ["1,500", "1.50", "0.50", "0.50", "10.0000", "1.0"]
    assert lines["Trainer + checkpointing"][1] == "0.50"
    assert lines["AdamW, all weights, 1b shape: `memory=checkpoint`"][:2] == ["524,288", "5,242.9"]
