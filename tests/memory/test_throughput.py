"""Timing of calls that are shorter than the resolution of the clock."""

from __future__ import annotations

import pytest
import torch

from elongate.memory.planner import throughput


@pytest.mark.parametrize("step", [1e-7, 4e-4])
def test_a_call_shorter_than_the_resolution_of_the_clock_is_timed_correctly(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    done = 0

    def act() -> None:
        nonlocal done
        done += 1

    # A call takes 3 microseconds, and the clock shows whole steps.
    monkeypatch.setattr(throughput, "_now", lambda _: 3e-6 * done // step * step)
    assert throughput._seconds(act, torch.device("cpu")) == pytest.approx(3e-6, rel=0.5)
