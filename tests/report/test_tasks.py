"""Tasks on text: a table for each on the page and in the terminal, with dashes for missing figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from elongate.report.page import write_report
from elongate.report.table import terminal_table

from .fake import EVALUATIONS, fake_config, fake_results, write_run

SECTION = {
    "path": ["<en>.json", "zh.json"],
    "length": 1024,
    "n": 50,
    "records": 240,
    "truncated": 3,
    "figures": ["exact_match", "f1"],
    "signatures": {"f1": "over words & characters"},
    "before": {"n": 0, "exact_match": None, "exact_match_standard_error": None, "f1": None, "f1_standard_error": None},
    "after": {"n": 1, "exact_match": 1.0, "exact_match_standard_error": None, "f1": 0.25, "f1_standard_error": 0.0625},
}


@pytest.mark.usefixtures("plain_figures")
def test_figures_have_their_errors_and_unknown_ones_are_a_dash(tmp_path: Path) -> None:
    results = fake_results() | {"question_answering": SECTION, "of_another_kind": {"after": {"value": 1}}, "measured": ["curve/after"]}
    run = write_run(tmp_path / "run", results, fake_config("yarn", 0))
    write_report(run, EVALUATIONS)
    page = (run / "report.html").read_text()
    assert "50 of 240 samples of &lt;en&gt;.json, zh.json, prompt and answer within 1024 tokens; the context of 3 was cut" in page
    assert '<tr><th scope="row">before</th><td>0</td><td>–</td><td>–</td></tr>' in page
    assert '<tr><th scope="row">after</th><td>1</td><td>1.000</td><td>0.250 ± 0.062</td></tr>' in page
    assert "f1: <code>over words &amp; characters</code>" in page
    assert "Question answering, 50 samples, 3 of them cut to 1024 tokens" in terminal_table(results, EVALUATIONS)
    assert "after    1.000         0.250 ± 0.062" in terminal_table(results, EVALUATIONS)
    assert "before   -             -" in terminal_table(results, EVALUATIONS)
