"""Plans for cards that are not in this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.conftest import composed

from elongate.arguments import name_plan
from elongate.build import build_job, plan_options
from elongate.errors import ConfigError
from elongate.memory import stream
from elongate.memory.planner import planner
from elongate.memory.planner.cards import CARDS
from elongate.memory.planner.dry_run import Call, Shape, Work
from elongate.memory.stream import Stream
from elongate.training.plan import plan


def product(size: int, rows: int, dtype: torch.dtype) -> Call:
    return Call(torch.ops.aten.mm.default, (Shape((rows, size), dtype), Shape((size, size), dtype)), ())


@pytest.mark.parametrize(("dtype", "peak"), [(torch.bfloat16, 989e12), (torch.float32, 66.9e12)])
def test_a_large_product_takes_a_share_of_the_peak(dtype: torch.dtype, peak: float) -> None:
    work = Work(Counter({product(8192, 8192, dtype): 1e15}))
    assert CARDS["h100"].seconds_of(work) == pytest.approx(1e15 / (0.75 * peak))


def test_a_product_with_one_row_takes_as_long_as_its_matrix_is_read() -> None:
    read = 2 * (4096 * 4096 + 4096)
    work = Work(Counter({product(4096, 1, torch.bfloat16): 2 * 4096 * 4096}))
    assert CARDS["a100-80gb"].seconds_of(work) == pytest.approx(read / (0.8 * 2.039e12))


def test_many_small_operators_take_as_long_as_the_processor_starts_them() -> None:
    assert CARDS["h200"].seconds_of(Work(calls=1e6)) == pytest.approx(8.0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.grid)])
def test_a_card_that_is_not_here_is_planned_for(precision: str, build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_KINDS", (Stream(),))
    monkeypatch.setattr(stream, "_LENGTHS", {"cuda": (1024,)})
    job = build_tiny(
        "plan.device=rtx4090", "model.num_layers=3", f"precision={precision}", "context.target_length=1024", "batch_tokens=1024"
    )
    lines = plan(job).splitlines()
    assert lines[0] == "One step: 1 × 1024 tokens on rtx4090, 22.90 GiB free"
    assert any(line.startswith("memory=stream memory.chunk_length=1024 ") for line in lines)  # 512 would starve it
    assert not any(line.startswith("memory=stream ") and "chunk_length" not in line for line in lines)
    assert lines[-1].endswith("they were not measured.")


def test_an_unknown_card_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        build_job(*composed("plan.device=v100"))
    assert str(caught.value).startswith(
        "plan.device=v100: must be null or one of h100, h200, a100-80gb, a100-40gb, rtx4090; use plan.device=h100"
    )


def test_a_plan_can_be_typed_in_short_and_with_a_card() -> None:
    assert name_plan(["plan=true", "seed=1"]) == ["plan=true", "seed=1"]
    assert name_plan(["plan=true", "plan.device=h100"]) == ["plan.show=true", "plan.device=h100"]
    short, full = (plan_options(composed(*words)[0]) for words in (["plan=true"], ["plan.show=true", "plan.device=h200"]))
    assert (short.show, short.device) == (True, None)
    assert (full.show, full.device) == (True, "h200")
    assert not plan_options(composed()[0]).is_wanted
    with pytest.raises(ConfigError, match="plan=maybe: must be true or false; use plan=true"):
        plan_options(composed("plan=maybe")[0])
