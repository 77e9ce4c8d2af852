"""Fixtures of the tests of reports."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def plain_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty figures: drawing takes longer than everything else."""
    monkeypatch.setattr("elongate.report.page.draw", lambda drawing: Figure(figsize=(1, 1)))
    monkeypatch.setattr("elongate.report.page.training_figure", lambda metrics: Figure(figsize=(1, 1)))
