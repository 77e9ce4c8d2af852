"""Curricula: the lengths and steps of their stages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from elongate.context.curriculum.curriculum import Stage
from elongate.context.curriculum.extend import Extend
from elongate.context.curriculum.fixed import Fixed
from elongate.context.curriculum.progressive import Progressive
from elongate.errors import ConfigError


@pytest.mark.slow
@settings(max_examples=40)
@given(original=some.integers(1, 512), doublings=some.integers(0, 6), steps=some.integers(7, 500))
def test_every_curriculum_spends_all_steps_and_ends_at_the_target(original: int, doublings: int, steps: int) -> None:
    for curriculum in (Fixed(), Extend(), Progressive()):
        stages = curriculum.stages(original, original * 2**doublings, steps)
        assert sum(stage.steps for stage in stages) == steps
        assert stages[-1].length == original * 2**doublings
        assert len({stage.name for stage in stages}) == len(stages)


def test_progressive_doubles_and_gives_the_rest_to_the_last_stage() -> None:
    assert Progressive().stages(256, 1000, 11) == [Stage("extend-512", 512, 5), Stage("extend-1000", 1000, 6)]


def test_progressive_refuses_fewer_steps_than_stages() -> None:
    with pytest.raises(ConfigError, match=r"steps=2: must give each of the 3 stages .* at least one step; use steps=3 or more"):
        Progressive().stages(256, 2048, 2)
