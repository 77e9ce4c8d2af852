"""`memory=auto` chooses a plan that fits, and the simplest one if all of them fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from elongate.errors import ConfigError
from elongate.memory.auto import Auto
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.planner import free_memory, planner, throughput

# Dry runs are slow, and those of two kinds of plan show as much as those of all.
TWO = (Plain(), Checkpoint(micro_batch_tokens=512, mlp_chunk_length=512))


@pytest.fixture
def _two_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares two kinds of plan with the same speed for all operators.

    On a busy machine, measured times of such small steps can put any plan first.
    """
    monkeypatch.setattr(planner, "_KINDS", TWO)
    monkeypatch.setattr(throughput, "seconds_of", lambda work, device: work.flops.total() / 1e9)


@pytest.mark.slow
@pytest.mark.usefixtures("_two_plans")
def test_plain_is_chosen_where_there_is_room(build_tiny: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = build_tiny().model.build(257, seed=0)
    assert isinstance(Auto().prepare(model, 256), Plain)
    assert capsys.readouterr().out.startswith("memory auto: memory=plain, the fastest plan that fits: ")


@pytest.mark.slow
@pytest.mark.usefixtures("_two_plans")
def test_less_room_gives_another_plan(build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny("model.num_layers=1").model.build(257, seed=0)
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 8 * 2**20)
    plan = Auto().prepare(model, 1024)
    assert not isinstance(plan, Plain)


@pytest.mark.slow
@pytest.mark.usefixtures("_two_plans")
def test_a_length_that_does_not_fit_is_refused_with_the_longest_that_fits(
    build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_tiny("model.num_layers=1").model.build(257, seed=0)
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 8 * 2**20)
    with pytest.raises(ConfigError) as caught:
        Auto().prepare(model, 2**20)
    assert str(caught.value).startswith("context.target_length=1048576: fits under no memory plan: the smallest, memory=checkpoint")
    longest = int(str(caught.value).partition("use context.target_length=")[2].partition(" ")[0])
    assert 2048 <= longest < 2**20
    Auto().prepare(model, longest // 256 * 256 - 256)


@pytest.mark.slow
@pytest.mark.usefixtures("_two_plans")
def test_the_chosen_plan_has_its_own_word(build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("memory=auto")
    assert job.memory.word == "auto"
    assert job.memory.prepare(job.model.build(257, seed=0), 128).word == "plain"
