"""Schedules rise to the peak, then follow their curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from elongate.cli import conf_directory
from elongate.config import build
from elongate.errors import ConfigError
from elongate.training.schedule.constant import Constant
from elongate.training.schedule.cosine import Cosine
from elongate.training.schedule.linear import Linear
from elongate.training.schedule.schedule import Schedule
from elongate.training.schedule.wsd import WarmupStableDecay

FILES = sorted((conf_directory() / "schedule").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("steps", [1, 2, 37, 600])
def test_a_schedule_rises_to_the_peak_and_never_rises_again(file: object, steps: int) -> None:
    schedule: Schedule = build(OmegaConf.load(str(file)), "schedule")
    shares = [schedule.share(step, steps) for step in range(1, steps + 1)]
    assert all(0 < share <= 1 for share in shares)
    top = shares.index(max(shares))
    assert top <= schedule.warmup_ratio * steps
    assert shares[top:] == sorted(shares[top:], reverse=True)


def test_the_shapes() -> None:
    assert Cosine(warmup_ratio=0, final_ratio=0).share(50, 100) == pytest.approx(0.5)
    assert Cosine(final_ratio=0.1).share(100, 100) == pytest.approx(0.1)
    assert Linear(warmup_ratio=0, final_ratio=0).share(25, 100) == pytest.approx(0.75)
    assert Constant(warmup_ratio=0.1).share(5, 100) == pytest.approx(0.5)
    assert Constant().share(100, 100) == 1
    wsd = WarmupStableDecay(warmup_ratio=0, final_ratio=0, decay_ratio=0.5)
    assert [wsd.share(step, 100) for step in (1, 50, 75, 100)] == pytest.approx([1, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [(Cosine, "warmup_ratio", 1), (Linear, "final_ratio", -0.1), (WarmupStableDecay, "decay_ratio", 0)],
)
def test_ranges(kind: type[Schedule], key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{key}={value}: must be in"):
        kind(**{key: value})


@pytest.mark.parametrize("steps", [8, 600])
def test_warmup_steps_replace_the_ratio(steps: int) -> None:
    schedule = Constant(warmup_ratio=0.5, warmup_steps=4)
    assert [schedule.share(step, steps) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert Cosine(warmup_steps=0, final_ratio=0).share(steps // 2, steps) == pytest.approx(0.5)


@pytest.mark.slow
def test_a_training_of_warmup_only_is_refused(build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"warmup_steps=-1: must be at least 0; use .*=null"):
        Constant(warmup_steps=-1)
    # The extension has three steps, the base has 600.
    with pytest.raises(ConfigError, match=r"warmup_steps=3: must be below the number of steps, 3; use schedule\.warmup_steps=0"):
        build_tiny("schedule.warmup_steps=3")
    assert build_tiny("schedule.warmup_steps=2").schedule.warmup_steps == 2
    with pytest.raises(ConfigError, match=r"^schedule\.warmup_steps=2: must be below the number of steps, 2"):
        build_tiny("schedule.warmup_steps=2", "context.curriculum.base.steps=2")
