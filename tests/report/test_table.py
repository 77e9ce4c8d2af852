"""The terminal table: its width, its figures, and true sentences when the extension did not work."""

from __future__ import annotations

import itertools
import subprocess
import sys
from copy import deepcopy

import pytest

from elongate.errors import ConfigError
from elongate.report.scalars import metric
from elongate.report.table import terminal_table
from elongate.report.verdict import verdict

from .fake import AFTER, BEFORE, EVALUATIONS, fake_results, fake_row


def test_every_loss_is_shown_and_fits_the_terminal():
    text = terminal_table(fake_results("yarn", shift=0.0), EVALUATIONS)
    assert all(f"{loss:.3f}" in text for loss in BEFORE + AFTER["yarn"])
    assert max(map(len, text.splitlines())) <= 100
    assert "beyond original (256)" in text
    assert "beyond target (1024)" in text


def test_columns_that_do_not_fit_follow_below():
    results = fake_results()
    edges = [0, *(2**exponent for exponent in range(6, 20))]
    losses = [1 + i / 100 for i in range(len(edges) - 1)]
    results["curve"] |= {"original_length": 32768, "target_length": 131072}
    results["curve"]["table"] = {"edges": edges, "before": fake_row(losses, 0.02), "after": fake_row(losses, 0.02)}
    text = terminal_table(results, EVALUATIONS)
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"{loss:.3f}" in text for loss in losses)
    assert all(f"{start}-{end}" in text for start, end in itertools.pairwise(edges))


def test_an_empty_bin_is_a_dash():
    results = fake_results()
    results["curve"]["table"]["after"]["loss"][-1] = float("nan")
    results["curve"]["table"]["after"]["standard_error"][-1] = None
    after = next(line for line in terminal_table(results, EVALUATIONS).splitlines() if line.startswith("after"))
    assert after.split()[-1] == "-"


@pytest.mark.parametrize("missing", ["curve", "needle", "budget"])
def test_a_section_that_was_not_computed_is_left_out(missing):
    results = fake_results()
    whole = terminal_table(results, EVALUATIONS)
    del results[missing]
    heading = {"curve": "Loss in nats", "needle": "exact match", "budget": "Budget"}[missing]
    assert heading in whole
    assert heading not in terminal_table(results, EVALUATIONS)


def test_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'matplotlib', 'jinja2', 'numpy', 'yaml'}"
    code = f"import sys, elongate.report.table, elongate.evaluation.presentation.curve; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def changed(context: str = "yarn", **after: float):
    """Results with the loss after the extension set by table column: `far` is 512-1024, `near` 64-256."""
    results = deepcopy(fake_results(context, shift=0.0))
    for name, loss in after.items():
        results["curve"]["table"]["after"]["loss"][{"near": 1, "far": 3}[name]] = loss
    return " ".join(verdict(results, EVALUATIONS))


def test_a_repaired_break_is_reported_with_its_figures():
    text = changed()
    assert "(512-1024) the loss was 3.22 ± 0.03 nats before the extension and is 1.64 ± 0.03 after" in text
    assert "the break is repaired" in text
    assert "became worse" not in text


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"far": 3.20}, "did not improve the loss there"),
        ({"far": 3.60}, "made the loss worse beyond"),
        ({"far": 2.40}, "not repaired: the loss is 0.61 nats above 64-256"),
        ({"far": 1.80}, "not distinguishably above 64-256"),
        ({"near": 2.13}, "worse at 64-256 (by 0.34)"),
    ],
)
def test_an_extension_that_failed_is_reported_as_such(after, expected):
    text = changed(**after)
    assert expected in text
    assert "no higher than" not in text or "far" not in after


def test_a_change_within_two_standard_errors_is_not_called_worse():
    assert "became worse" not in changed(near=BEFORE[1] + 1.9 * 0.024 * 2**0.5)
    assert "became worse" in changed(near=BEFORE[1] + 2.1 * 0.024 * 2**0.5)


def test_without_training_the_verdict_is_on_the_untuned_row():
    results = fake_results("ntk")
    del results["curve"]["table"]["after"]
    assert "is 2.47 ± 0.03 after it, without training" in verdict(results, EVALUATIONS)[0]


def test_a_needle_that_is_not_found_is_reported():
    results = fake_results("pi")
    assert "not distinguishably preferred" in verdict(results, EVALUATIONS)[-1]


def test_equal_original_and_target_lengths_are_reported():
    results = fake_results("none")
    results["curve"]["target_length"] = 256
    assert verdict(results, EVALUATIONS)[0] == "The target length is the original length: nothing was extended."


def test_the_figure_of_a_search_is_found_by_its_path():
    results = fake_results()
    assert metric(results, EVALUATIONS, "curve/after/512-1024") == results["curve"]["table"]["after"]["loss"][3]
    rule = "sweep.metric=curve/after/512-1025: is no figure of this run; use sweep.metric=curve/after/512-1024; near are also "
    with pytest.raises(ConfigError, match=rule):
        metric(results, EVALUATIONS, "curve/after/512-1025")
