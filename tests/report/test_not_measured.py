"""Texts longer than a table of positions have null figures in the results, and gaps on the page and in the terminal."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from elongate.evaluation.needle import Needle
from elongate.evaluation.presentation.drawings import PositionCurves
from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.canvas import png
from elongate.report.comparison import comparison_summary, write_comparison
from elongate.report.figures import draw
from elongate.report.page import write_report
from elongate.report.scalars import scalars
from elongate.report.table import terminal_table
from elongate.report.verdict import verdict

from .fake import EVALUATIONS, fake_config, fake_results, write_run


def without(results: dict[str, Any], row: str, beyond: int) -> dict[str, Any]:
    """The same results with a row that was read only up to `beyond` tokens."""
    for part in ("table", "fine"):
        for stop, i in zip(results["curve"][part]["edges"][1:], range(len(results["curve"][part]["edges"])), strict=False):
            if stop > beyond and row in results["curve"][part]:
                results["curve"][part][row]["loss"][i] = results["curve"][part][row]["standard_error"][i] = None
    for name, cells in results["needle"].get(row, {}).items():
        results["needle"][row][name] = [
            [None] * len(line) if length > beyond else line for length, line in zip(results["needle"]["lengths"], cells, strict=True)
        ]
    return results


@pytest.fixture
def results() -> dict[str, Any]:
    """Results of a table of positions, trained at 256 and extended to 1024."""
    results = fake_results("yarn", shift=0.0)
    for row, beyond in (("before", 256), ("untuned", 1024), ("after", 1024)):
        without(results, row, beyond)
    return results


def test_the_terminal_table_has_dashes(results: dict[str, Any]) -> None:
    lines = terminal_table(results, EVALUATIONS).splitlines()
    cells = {row: next(line for line in lines if line.startswith(row)).replace("│", " ").split()[1:] for row in ("before", "after")}
    assert [cell == "-" for cell in cells["before"]] == [False, False, True, True, True, True]
    assert [cell == "-" for cell in cells["after"]] == [False, False, False, False, True, True]
    needle = {line.split()[0]: line.split("  ") for line in lines if line.strip().split(" ")[0] in ("256", "512", "1024", "2048")}
    assert any(cell.strip() == "- → -" for cell in needle["2048"])
    assert any(cell.strip().startswith("- → ") and "±" in cell for cell in needle["512"])


def test_the_verdict_says_that_the_base_could_not_read_that_far(results: dict[str, Any]) -> None:
    text = " ".join(verdict(results, EVALUATIONS))
    assert "Beyond the trained length (512-1024) the model had no positions before the extension and could not be read" in text
    assert "the loss is 1.64 ± 0.03 nats after (1.99 without training)" in text
    assert "no higher than 64-256 before the extension: the model reads the new length as well as the trained one" in text
    assert "Needle at 1024 tokens" in text
    results["curve"]["table"]["after"]["loss"][3] = 2.4
    assert "That is 0.61 nats above 64-256 before the extension." in " ".join(verdict(results, EVALUATIONS))


@pytest.mark.usefixtures("plain_figures")
def test_page_and_csv_have_gaps(results: dict[str, Any], tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", results, fake_config("yarn", 0))
    written = write_report(directory, EVALUATIONS)
    page = (directory / "report.html").read_text()
    assert "nan" not in page.lower().split("<h1>")[1].split("data:image")[0]
    assert page.count("<td>–</td>") >= 3 * 3  # three figures of each needle length that was not read
    with written["tables"]["needle"].open() as file:
        lines = [line for line in csv.DictReader(file) if line["row"] == "before" and line["length"] != "256"]
    assert lines
    assert all(line["margin"] == line["exact_match"] == "" for line in lines)


def needle_figure(results: dict[str, Any]) -> Any:
    return draw(Needle().figures(results["needle"])[0].drawing)


def test_the_heat_map_writes_a_dash(results: dict[str, Any]) -> None:
    figure = needle_figure(results)
    before, after = figure.axes[:2]
    assert sum(text.get_text() == "–" for text in before.texts) == 3 * 5
    assert sum(text.get_text() == "–" for text in after.texts) == 5


def test_a_needle_without_figures_is_a_map_of_dashes(results: dict[str, Any]) -> None:
    for row in ("before", "after"):
        without(results, row, 0)
    assert sum(text.get_text() == "–" for text in needle_figure(results).axes[0].texts) == 4 * 5
    assert "- → -" in terminal_table(results, EVALUATIONS)
    assert not [sentence for sentence in verdict(results, EVALUATIONS) if "Needle" in sentence]


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_a_comparison_ranks_by_the_last_bin_that_all_strategies_can_read(results: dict[str, Any], tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"table-{seed}", results, fake_config("yarn", seed))
        write_run(tmp_path / f"whole-{seed}", fake_results("ntk", seed), fake_config("ntk", seed))
    page = write_comparison(tmp_path)
    assert page is not None
    summary = comparison_summary(tmp_path)
    assert "before 512-1024" in summary
    line = next(line for line in summary.splitlines() if "yarn" in line)
    assert "–" in line  # the base could not read that far
    assert "nan" not in summary


def test_a_tracker_gets_only_what_was_measured(results: dict[str, Any]) -> None:
    flat = scalars(results, EVALUATIONS)
    assert "curve/before/64-256" in flat
    assert "curve/before/512-1024" not in flat
    assert "needle/before/margin/256" in flat
    assert "needle/before/margin/512" not in flat


def test_curves_that_end_before_the_original_length_are_drawn() -> None:
    rows = {"after": {(0, 2): Estimate(3.0, 0.1), (2, 5): Estimate(2.0, 0.1)}}
    figure = draw(PositionCurves(rows, [0, 2, 5], original_length=256, target_length=1024))
    assert png(figure)  # warns if a mark outside of the axes leaves them no room
    assert not figure.axes[0].texts
