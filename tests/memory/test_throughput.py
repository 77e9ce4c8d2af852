"""Short work, timed by a clock that moves in steps."""

from __future__ import annotations

import pytest
import torch

from elongate.memory.planner import throughput


@pytest.mark.parametrize("step", [1e-7, 4e-4])
def test_what_is_shorter_than_a_step_of_the_clock_takes_the_time_that_it_takes(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    done = 0

    def act() -> None:
        nonlocal done
        done += 1

    # An act takes 3 microseconds; the clock shows whole steps.
    monkeypatch.setattr(throughput, "_now", lambda _: 3e-6 * done // step * step)
    assert throughput._seconds(act, torch.device("cpu")) == pytest.approx(3e-6, rel=0.5)
