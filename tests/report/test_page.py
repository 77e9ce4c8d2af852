"""The page of a run is well-formed, self-contained and complete; the CSV files contain the results."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from elongate.report.page import write_report

from .fake import EVALUATIONS, fake_config, fake_results, write_run

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text and resource references."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.references: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in {"src", "href", "srcset", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def assert_self_contained(html: str, scripts: int = 0) -> Page:
    page = Page(html)
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"https?://|@import|url\(", html)
    assert html.count("<script") == scripts
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its page. Not to be changed."""
    run = write_run(tmp_path_factory.mktemp("page") / "gpt-yarn-default", fake_results(), fake_config("yarn", 0), metrics=True)
    before = {path.name for path in run.iterdir()}
    written = write_report(run, EVALUATIONS)
    assert written == {
        "images": {"curve": run / "curve.png", "needle": run / "needle.png"},
        "tables": {"curve": run / "curve.csv", "needle": run / "needle.csv"},
    }
    assert {path.name for path in run.iterdir()} - before == {"curve.png", "needle.png", "curve.csv", "needle.csv", "report.html"}
    return run


@pytest.mark.slow
def test_figures_are_png_files(run):
    for name in ("curve", "needle"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_curve_csv_contains_the_fine_bins(run):
    fine = fake_results()["curve"]["fine"]
    with (run / "curve.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * (len(fine["edges"]) - 1)
    for row in ("before", "untuned", "after"):
        ours = [line for line in lines if line["row"] == row]
        assert [float(line["loss"]) for line in ours] == fine[row]["loss"]
        assert [float(line["standard_error"]) for line in ours] == fine[row]["standard_error"]
        assert [int(line["start"]) for line in ours] == fine["edges"][:-1]
        assert [int(line["end"]) for line in ours] == fine["edges"][1:]


def test_needle_csv_contains_every_cell(run):
    needle = fake_results()["needle"]
    with (run / "needle.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(needle["lengths"]) * len(needle["depths"])
    for line in lines:
        i, j = needle["lengths"].index(int(line["length"])), needle["depths"].index(float(line["depth"]))
        assert int(line["n"]) == needle["n"]
        for name, matrix in needle[line["row"]].items():
            assert float(line[name]) == matrix[i][j]


def test_the_page_is_self_contained_and_has_the_figures_of_the_table(run):
    text = " ".join(assert_self_contained((run / "report.html").read_text()).text)
    results = fake_results()
    for row in ("before", "untuned", "after"):
        assert all(f"{loss:.3f}" in text for loss in results["curve"]["table"][row]["loss"])
        assert all(f"±{error:.3f}" in text for error in results["curve"]["table"][row]["standard_error"])
    for row in ("before", "after"):
        for margins in results["needle"][row]["margin"]:
            assert f"{sum(margins) / len(margins):.2f}" in text
    for expected in ("491,520", "774 MiB", "771,328", "1.1386", "1.2e-08", "runs/bases/gpt-256-1a2b3c4d", "lr: 0.001"):
        assert expected in text


@pytest.mark.usefixtures("plain_figures")
def test_the_configuration_is_escaped(tmp_path):
    run = write_run(tmp_path / "run", fake_results(), fake_config("yarn", 0, data__path="<script>alert(1)</script>"))
    write_report(run, EVALUATIONS)
    assert "<script" not in (run / "report.html").read_text()


@pytest.mark.usefixtures("plain_figures")
@pytest.mark.parametrize("missing", ["curve", "needle", "stages", "budget", "data", "strategy"])
def test_a_section_that_was_not_computed_is_left_out(tmp_path, missing):
    results = fake_results()
    del results[missing]
    run = write_run(tmp_path / "run", results, fake_config("yarn", 0))
    written = write_report(run, EVALUATIONS)
    assert_self_contained((run / "report.html").read_text())
    assert missing not in written["images"]
    assert not (run / f"{missing}.csv").exists()


@pytest.mark.usefixtures("plain_figures")
def test_a_run_with_few_sections_has_a_page(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps({"curve": fake_results()["curve"]}))
    assert write_report(run, EVALUATIONS)["images"].keys() == {"curve"}
    assert_self_contained((run / "report.html").read_text())


def test_a_figure_that_fails_leaves_the_old_one(run, tmp_path, monkeypatch):
    run = shutil.copytree(run, tmp_path / "run")
    old = (run / "curve.png").read_bytes()

    def half(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="disk full"):
        write_report(run, EVALUATIONS)
    assert (run / "curve.png").read_bytes() == old
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
