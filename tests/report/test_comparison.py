"""The comparison of a sweep against numpy, on runs made by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from elongate.report.comparison import comparison_summary, write_comparison
from elongate.report.sweeps import read_sweep

from .fake import AFTER, fake_config, fake_results, write_run
from .test_page import assert_self_contained


def write_runs(sweep: Path, shifts: dict[str, dict[int, float]]) -> None:
    """One run for each context and seed, with a shift of all losses after the extension."""
    for context, by_seed in shifts.items():
        for seed, shift in by_seed.items():
            write_run(sweep / f"{context}-{seed}", fake_results(context, seed, shift), fake_config(context, seed))


def read_rows(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


SHIFTS = {"yarn": {0: 0.00, 1: 0.03, 2: -0.02}, "pi": {0: 0.01, 1: 0.05, 2: 0.00}, "ntk": {0: 0.01, 1: 0.02, 2: -0.01}}


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_means_and_standard_errors_agree_with_numpy(tmp_path):
    write_runs(tmp_path, SHIFTS)
    assert write_comparison(tmp_path) == tmp_path / "comparison.html"
    rows = {row["strategy"]: row for row in read_rows(tmp_path)}
    for context, by_seed in SHIFTS.items():
        row = rows[f"context={context}"]
        for column, loss in (("after_512_1024", AFTER[context][3]), ("after_2048_4096", AFTER[context][5])):
            values = loss + np.array(list(by_seed.values()))
            assert float(row[column]) == pytest.approx(values.mean())
            assert float(row[f"{column}_standard_error"]) == pytest.approx(values.std(ddof=1) / np.sqrt(3))
        margins = [np.mean(fake_results(context, s, shift)["needle"]["after"]["margin"][2]) for s, shift in by_seed.items()]
        assert float(row["needle_margin_at_target"]) == pytest.approx(np.mean(margins))
        assert float(row["peak_memory_bytes"]) == pytest.approx(813_000_000)
        assert row["seeds"] == "0 1 2"
        assert row["num_seeds"] == "3"


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_rows_are_sorted_by_the_last_bin_within_the_target_and_the_best_is_marked(tmp_path):
    write_runs(tmp_path, SHIFTS)
    write_comparison(tmp_path)
    rows = read_rows(tmp_path)
    losses = [float(row["after_512_1024"]) for row in rows]
    assert losses == sorted(losses)
    assert [row["mark"] for row in rows] == ["best", "not distinguishable", ""]


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_pairing_over_seeds_shows_a_difference_that_the_means_do_not(tmp_path):
    """Seeds differ by far more than strategies do, but every seed agrees on the order."""
    spread = {0: 0.0, 1: 0.3, 2: 0.6}
    write_runs(tmp_path, {"yarn": spread, "ntk": {seed: shift + 0.05 + 0.001 * seed for seed, shift in spread.items()}})
    write_comparison(tmp_path)
    second = read_rows(tmp_path)[1]
    differences = np.array([AFTER["ntk"][3] - AFTER["yarn"][3] + 0.05 + 0.001 * seed for seed in spread])
    assert second["mark"] == ""
    assert float(second["difference_to_best"]) == pytest.approx(differences.mean())
    assert float(second["difference_to_best_standard_error"]) == pytest.approx(differences.std(ddof=1) / np.sqrt(3))


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_only_common_seeds_are_paired_and_missing_ones_are_named(tmp_path):
    write_runs(tmp_path, {"yarn": {0: 0.0, 1: 0.3, 2: 0.6}, "ntk": {1: 0.35, 2: 0.66, 3: 0.9}})
    write_comparison(tmp_path)
    second = read_rows(tmp_path)[1]
    paired = np.array([0.05, 0.06]) + AFTER["ntk"][3] - AFTER["yarn"][3]
    assert float(second["difference_to_best"]) == pytest.approx(paired.mean())
    page = (tmp_path / "comparison.html").read_text()
    assert "context=ntk has no finished run for seed 0." in page
    assert "context=yarn has no finished run for seed 3." in page


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_without_common_seeds_the_difference_is_that_of_the_means(tmp_path):
    write_runs(tmp_path, {"yarn": {0: 0.0, 1: 0.02}, "ntk": {2: 0.1, 3: 0.14}})
    write_comparison(tmp_path)
    second = read_rows(tmp_path)[1]
    assert float(second["difference_to_best_standard_error"]) == pytest.approx(np.hypot(0.01, 0.02))
    assert "No two strategies share a seed" in (tmp_path / "comparison.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_with_one_seed_there_is_no_standard_error_and_no_verdict(tmp_path):
    write_runs(tmp_path, {"yarn": {0: 0.0}, "ntk": {0: 0.0}})
    write_comparison(tmp_path)
    html = (tmp_path / "comparison.html").read_text()
    for row in read_rows(tmp_path):
        assert row["mark"] in ("best", "")
        assert {value for key, value in row.items() if key.endswith("_standard_error")} == {""}
    assert "±" not in html
    assert "±" not in comparison_summary(tmp_path)
    assert "There is one seed per strategy" in html


@pytest.mark.slow
def test_the_page_is_self_contained_and_has_every_figure(tmp_path):
    write_runs(tmp_path, SHIFTS)
    write_comparison(tmp_path)
    page = assert_self_contained((tmp_path / "comparison.html").read_text(), scripts=1)
    text = " ".join(page.text)
    assert len(page.references) == 3  # loss by position, quality against cost, margin by depth
    for row in read_rows(tmp_path):
        assert row["strategy"] in text
        for name in ("after_0_64", "after_512_1024", "after_2048_4096", "before_512_1024", "final_training_loss"):
            assert f"{float(row[name]):.3f}" in text
        assert f"{float(row['needle_exact_match_at_longest']):.2f}" in text
        assert f"{float(row['tokens_per_second']):,.0f}" in text


def test_equal_tokens_are_confirmed_and_unequal_ones_named(tmp_path):
    write_runs(tmp_path, {"yarn": {0: 0.0, 1: 0.0}, "ntk": {0: 0.0, 1: 0.0}})
    assert "all strategies saw the same tokens in the same order (by hash; seeds 0, 1)" in comparison_summary(tmp_path)
    other = fake_results("pi", 1, 0.0)
    other["data"]["consumed_tokens_sha256"] = "f" * 64
    other["budget"]["tokens"] = 500_000
    write_run(tmp_path / "pi-1", other, fake_config("pi", 1))
    summary = " ".join(comparison_summary(tmp_path).split())
    assert "did not see the same tokens" in summary
    assert "seed 1: context=ntk, context=yarn / context=pi" in summary
    assert "The budgets differ, from 491,520 to 500,000 tokens." in summary


@pytest.mark.usefixtures("empty_figures")
def test_unfinished_and_repeated_runs_are_named_and_left_out(tmp_path):
    write_runs(tmp_path, {"yarn": {0: 0.0}})
    write_run(tmp_path / "stopped", None, fake_config("ntk", 0))
    training = fake_results("pi")
    del training["budget"]
    write_run(tmp_path / "training", training, fake_config("pi", 0))
    write_run(tmp_path / "yarn-again", fake_results("yarn", 0, 0.5), fake_config("yarn", 0, name="again"))
    write_run(tmp_path / "yarn-0" / ".hydra", None, fake_config("yarn", 0))
    write_comparison(tmp_path)
    assert [float(row["after_512_1024"]) for row in read_rows(tmp_path)] == [AFTER["yarn"][3]]
    html = (tmp_path / "comparison.html").read_text()
    assert "Left out because they are not finished: stopped, training." in html
    assert "Left out because another run has the same configuration and seed: yarn-again." in html


@pytest.mark.usefixtures("empty_figures")
def test_nothing_is_written_without_a_finished_run(tmp_path):
    write_run(tmp_path / "stopped", None, fake_config("ntk", 0))
    assert write_comparison(tmp_path) is None
    assert "Left out because they are not finished: stopped." in comparison_summary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stopped"]


@pytest.mark.usefixtures("empty_figures")
def test_runs_without_needle_or_curve_are_compared_by_their_other_figures(tmp_path):
    for context, missing in (("yarn", "needle"), ("ntk", "curve")):
        for seed in (0, 1):
            results = fake_results(context, seed, 0.01 * seed)
            del results[missing]
            write_run(tmp_path / f"{context}-{seed}", results, fake_config(context, seed))
    write_comparison(tmp_path)
    first, last = read_rows(tmp_path)
    assert first["strategy"] == "context=yarn"
    assert first["needle_margin_at_target"] == ""
    assert last["strategy"] == "context=ntk"
    assert last["after_512_1024"] == ""
    assert last["mark"] == ""
    assert float(last["tokens"]) == 491520
    assert_self_contained((tmp_path / "comparison.html").read_text(), scripts=1)


@pytest.mark.usefixtures("empty_figures")
def test_a_needle_without_the_target_length_has_no_figure_there(tmp_path):
    results = fake_results("yarn")
    results["strategy"]["target_length"] = 1500
    write_run(tmp_path / "yarn", results, fake_config("yarn", 0))
    write_comparison(tmp_path)
    (row,) = read_rows(tmp_path)
    assert row["needle_margin_at_target"] == ""
    assert row["needle_margin_at_longest"] != ""


def test_the_summary_fits_the_terminal(tmp_path):
    for rate in (0.001, 0.002):
        config = fake_config("yarn", 0, data__path="/a/very/long/path/" + "x" * 60, optimizer__lr=rate)
        config["data"]["path"] += str(rate)
        write_run(tmp_path / str(rate), fake_results("yarn"), config)
    assert max(map(len, comparison_summary(tmp_path).splitlines())) <= 100


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([("yarn", {})], {"context=yarn"}),
        ([("yarn", {}), ("pi", {})], {"context=yarn", "context=pi"}),
        ([("yarn", {}), ("yarn", {"optimizer__lr": 0.002})], {"optimizer.lr=0.001", "optimizer.lr=0.002"}),
        ([("yarn", {}), ("pi", {"steps": 90})], {"context=yarn steps=60", "context=pi steps=90"}),
        ([("yarn", {}), ("pi", {"context__target_length": 2048})],
         {"context=yarn context.target_length=1024", "context=pi context.target_length=2048"}),
        ([("yarn", {}), ("pi", {}), ("pi", {"context__position__theta": "other"})],
         {"context=yarn context.position.theta=of yarn", "context=pi context.position.theta=of pi",
          "context=pi context.position.theta=other"}),
        ([("yarn", {}), ("yarn", {"optimizer": {"_target_": "elongate.training.muon.Muon", "lr": 0.02}})],
         {"optimizer=adamw", "optimizer=muon"}),
        ([("yarn", {}), ("yarn", {"model__original_length": 128})],
         {"model.original_length=256", "model.original_length=128"}),
    ],
)  # fmt: skip
def test_labels_name_only_the_settings_that_differ(tmp_path, runs, expected):
    for index, (context, settings) in enumerate(runs):
        for seed in (0, 1):
            write_run(tmp_path / f"{index}-{seed}", fake_results(context, seed), fake_config(context, seed, **settings))
    sweep = read_sweep(tmp_path)
    assert {group.label for group in sweep.groups} == expected
    assert all(list(group.runs) == [0, 1] for group in sweep.groups)
