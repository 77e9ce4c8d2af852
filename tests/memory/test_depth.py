"""Dry runs of shallow networks against that of the whole one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.exotic import exotic
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Plan
from elongate.memory.plain import Plain
from elongate.memory.planner.depth import composed, depths
from elongate.memory.planner.dry_run import dry_run
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
}
_PLANS = [Checkpoint(), *(pytest.param(plan, marks=pytest.mark.grid) for plan in (Plain(), Stream(chunk_length=32, keep_attention=False)))]
_WINDOWS = ["sliding_attention", "sliding_attention", "full_attention"]


def _build(config: Any) -> LanguageModel:
    return LanguageModel(AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION), config.model_type)


def _windows(layer_types: list[str]) -> LanguageModel:
    window = {"use_sliding_window": True, "sliding_window": 16}
    return _build(Qwen3Config(**_SIZES, **window, num_hidden_layers=len(layer_types), layer_types=layer_types))


def _assert_composed(model: LanguageModel, plan: Plan, expected: tuple[int, int, int]) -> None:
    found = depths(model)
    assert found == expected
    first, second = (dry_run(model, plan, 1, 64, depth) for depth in found[:2])
    short, whole = composed(first, second, found), dry_run(model, plan, 1, 64)
    assert (short.peak, short.disk) == pytest.approx((whole.peak, whole.disk), rel=0.01)
    assert short.work.flops.total() == pytest.approx(whole.work.flops.total())
    assert short.work.moved == pytest.approx(whole.work.moved)
    assert short.work.calls == pytest.approx(whole.work.calls)


@pytest.mark.slow
@pytest.mark.parametrize("plan", _PLANS, ids=lambda plan: plan.word)
def test_equal_layers_are_composed(plan: Plan) -> None:
    _assert_composed(_build(LlamaConfig(**_SIZES, num_hidden_layers=5)), plan, (1, 2, 5))


@pytest.mark.slow
def test_windows_in_some_layers_are_composed() -> None:
    # Four periods of three layers, and two layers more.
    _assert_composed(_windows([*_WINDOWS * 4, *_WINDOWS[:2]]), Plain(), (5, 8, 14))


@pytest.mark.grid
def test_dense_layers_before_experts_are_composed() -> None:
    model = LanguageModel(exotic("qwen3_moe", num_hidden_layers=8, mlp_only_layers=[0]), "qwen3_moe")
    _assert_composed(model, Checkpoint(), (2, 3, 8))


def test_layers_without_a_period_are_run_as_they_are() -> None:
    full, near = "full_attention", "sliding_attention"
    assert depths(_windows([full, near, near, full, near, full, full, near, near])) is None


@pytest.mark.parametrize("frozen", [0, 5])
def test_a_layer_of_its_own_is_not_left_out(frozen: int) -> None:
    model = _build(LlamaConfig(**_SIZES, num_hidden_layers=6))
    model.network.base_model.layers[frozen].mlp.up_proj.weight.requires_grad_(False)
    assert depths(model) == ((2, 3, 6) if frozen == 0 else None)
