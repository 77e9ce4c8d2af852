"""The benchmark of long sequences: which rows it refuses, and the page that it writes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

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
