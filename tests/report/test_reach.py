"""How far back a text is used: the mean over seeds and the hull of their intervals. Figures that were not measured are missing, not 0."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from elongate.evaluation.context_gain import ContextGain
from elongate.evaluation.needle import Needle
from elongate.evaluation.presentation.retrieval import RetrievalPresentation
from elongate.report.comparison import write_comparison
from elongate.report.figures import draw
from elongate.report.reach import margins_by_depth, reaches_of

from .fake import fake_config, fake_results, with_reach, write_run

GAINS = {0: (512, [256, 512]), 1: (1024, [512, 1024]), 2: (256, [128, 512])}  # effective context and its interval by seed


@pytest.fixture
def sweep(tmp_path: Path, empty_figures: None) -> Path:
    for seed, (length, interval) in GAINS.items():
        results = with_reach(fake_results("yarn", seed))
        results["context_gain"]["after"] |= {"effective_context": length, "effective_context_interval": interval}
        write_run(tmp_path / f"yarn-{seed}", results, fake_config("yarn", seed))
        write_run(tmp_path / f"ntk-{seed}", fake_results("ntk", seed), fake_config("ntk", seed))
    write_comparison(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_columns_contain_the_mean_and_the_hull(sweep: Path) -> None:
    with (sweep / "comparison.csv").open(newline="") as file:
        rows = {row["strategy"]: row for row in csv.DictReader(file)}
    yarn, ntk = rows["context=yarn"], rows["context=ntk"]
    assert float(yarn["effective_context"]) == pytest.approx(np.mean([length for length, _ in GAINS.values()]))
    assert float(yarn["effective_context_low"]) == min(low for _, (low, _) in GAINS.values())
    assert float(yarn["effective_context_high"]) == max(high for _, (_, high) in GAINS.values())
    assert float(yarn["retrieval_preferred_effective_length"]) == 1024
    assert {ntk[name] for name in ntk if name.startswith(("effective_context", "retrieval"))} == {""}


@pytest.mark.slow
def test_the_page_shows_none_for_a_length_of_zero_and_a_dash_for_a_missing_figure(sweep: Path) -> None:
    page = (sweep / "comparison.html").read_text()
    part = page.split("<h2>How far back the text is used</h2>")[1].split("</section>")[0]
    yarn, ntk = (part.split(f">context={context}<")[1].split("</tr>")[0] for context in ("yarn", "ntk"))
    assert ">none</td>" in yarn
    assert "<small>128–1,024</small>" in yarn
    assert ntk.count("<td>–</td>") == 3


@pytest.mark.usefixtures("empty_figures")
def test_a_sweep_without_these_evaluations_has_no_such_part(tmp_path: Path) -> None:
    write_run(tmp_path / "yarn", fake_results("yarn"), fake_config("yarn", 0))
    page = write_comparison(tmp_path)
    assert page is not None
    assert "How far back" not in page.read_text()
    assert "effective_context" not in (tmp_path / "comparison.csv").read_text()


def test_rows_that_are_not_measured_yet_are_left_out() -> None:
    """A header is written before its rows, and a row can have no effective context."""
    results = with_reach(fake_results())
    del results["retrieval"]["copy"]
    results["context_gain"]["after"] |= {"effective_context": None, "effective_context_interval": None}
    assert reaches_of(results, "after") == {}
    assert reaches_of(results, "before").keys() == {"effective_context"}


def test_the_effective_length_of_several_tasks_is_that_of_all_together() -> None:
    results = with_reach(fake_results())
    results["retrieval"] |= {"tasks": ["copy", "two_hops"], "all": {"after": {"effective_length": {"preferred": 256}}}}
    assert reaches_of(results, "after")["retrieval_preferred_effective_length"].length == 256


def test_bars_are_as_long_as_the_reach() -> None:
    results = with_reach(fake_results("yarn"))
    reach, _ = ContextGain().sections(results)
    widths = sorted(bar.get_width() for bar in draw(reach.figures[0].drawing).axes[0].patches)
    assert widths == [0, 0, 256, 256, 1024, 1024]  # before and after: written exactly, effective context and preferred


def test_the_depths_are_those_of_the_target_length() -> None:
    results = fake_results("yarn", shift=0.0)
    needle = results["needle"]
    at_target = needle["lengths"].index(needle["target_length"])
    margins = margins_by_depth(results, "after")
    assert list(margins) == needle["depths"]
    assert [margin.mean for margin in margins.values()] == needle["after"]["margin"][at_target]
    needle["after"]["margin"][at_target][2] = None
    assert 0.5 not in margins_by_depth(results, "after")
    needle["target_length"] = 1500
    assert [section.title for section in Needle().sections(results)] == ["Needle"]


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([0.5, 0.6, 0.7, 0.8, 0.9], "at every depth: margins from 0.50 nats at 0% to 0.90 at 100%"),
        ([0.5, 0.1, 0.1, 0.1, 0.9], "at depths of 0%, 100% only"),
        ([0.1, 0.2, -0.5, 0.0, 0.1], "at no depth: margins from -0.50 nats at 50%"),
    ],
)
def test_one_seed_is_judged_by_its_samples(tmp_path: Path, margins: list[float], expected: str) -> None:
    results = fake_results("yarn")  # standard errors of 0.2
    results["needle"]["after"]["margin"][2] = margins
    write_run(tmp_path / "yarn", results, fake_config("yarn", 0))
    page = write_comparison(tmp_path)
    assert page is not None
    assert f"context=yarn finds the key with 95% confidence {expected}" in page.read_text()


@pytest.mark.parametrize(("enough", "shown"), [(True, "none"), (False, "too few samples")])
def test_too_few_samples_are_not_shown_as_no_effective_length(enough: bool, shown: str) -> None:
    results = with_reach(fake_results())
    for row in ("before", "after"):
        results["retrieval"]["copy"][row]["enough_samples"] = {"preferred": True, "exact_match": enough}
    (table, _) = RetrievalPresentation().tables(results["retrieval"])
    assert [line[-1] for line in table.rows] == [shown, shown]
    assert ("retrieval_exact_match_effective_length" in reaches_of(results, "after")) is enough
