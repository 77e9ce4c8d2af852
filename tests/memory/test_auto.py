"""`memory=auto` chooses a plan that fits, and the simplest one if all of them fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from elongate.errors import ConfigError
from elongate.memory.auto import Auto
from elongate.memory.plain import Plain
from elongate.memory.planner import free_memory, planner, throughput
from elongate.memory.stream import Stream


@pytest.fixture
def _equal_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives all operators the same speed. On a busy machine, measured times of such small steps can put any plan first."""
    monkeypatch.setattr(throughput, "seconds_of", lambda work, device: work.flops.total() / 1e9)


@pytest.mark.usefixtures("_equal_speed")
def test_plain_is_chosen_where_there_is_room(build_tiny: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = build_tiny().model.build(257, seed=0)
    assert isinstance(Auto().prepare(model, 256), Plain)
    assert capsys.readouterr().out.startswith("memory auto: memory=plain, the fastest plan that fits: ")


@pytest.mark.usefixtures("_equal_speed")
def test_less_room_gives_another_plan(build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny("model.num_layers=1").model.build(257, seed=0)
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 8 * 2**20)
    plan = Auto().prepare(model, 1024)
    assert not isinstance(plan, Plain)


@pytest.mark.slow
@pytest.mark.usefixtures("_equal_speed")
def test_a_length_that_does_not_fit_is_refused_with_the_longest_that_fits(
    build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_tiny("model.num_layers=1").model.build(257, seed=0)
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 8 * 2**20)
    # Dry runs are slow, and those of two plans show as much as those of all.
    monkeypatch.setattr(planner, "_KINDS", (Plain(), Stream(keep_attention=False)))
    with pytest.raises(ConfigError) as caught:
        Auto().prepare(model, 2**20)
    assert str(caught.value).startswith("context.target_length=1048576: fits under no memory plan: the smallest, memory=stream")
    longest = int(str(caught.value).partition("use context.target_length=")[2].partition(" ")[0])
    assert 16384 <= longest < 2**20
    Auto().prepare(model, longest // 256 * 256 - 256)


@pytest.mark.usefixtures("_equal_speed")
def test_the_chosen_plan_has_its_own_word(build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("memory=auto")
    assert job.memory.word == "auto"
    assert job.memory.prepare(job.model.build(257, seed=0), 128).word == "plain"
