"""The planner's predictions against closed forms and against measured steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import composed
from tests.covering import all_values
from tests.exotic import exotic
from tests.memory.peak import PLANS
from tests.networks import network

from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.planner import free_memory
from elongate.memory.planner.dry_run import dry_run
from elongate.memory.planner.planner import Advice, PlanCost, advise
from elongate.memory.planner.step_costs import StepCosts
from elongate.memory.planner.throughput import seconds_of
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel
from elongate.models.precision import use_precision

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_peak_of_a_step_is_predicted_to_15_percent() -> None:
    sizes = {"length": 2048, "layers": 2, "dim": 256, "heads": 4, "kv_heads": 2, "mlp_dim": 704, "vocab_size": 4096}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.memory.peak", *PLANS, *words],
        cwd=ROOT,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout.splitlines()[-1])
    assert peaks.keys() == PLANS.keys()
    predicted, measured = ({plan: peak[name] for plan, peak in peaks.items()} for name in ("predicted", "measured"))
    assert predicted == pytest.approx(measured, rel=0.15)


@pytest.fixture
def model(build_tiny: Callable[..., Any]) -> Any:
    """1 layer, 4 heads over 2, 32 dimensions."""
    return build_tiny("model.num_layers=1").model.build(257, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 1024])
def test_the_flops_of_plain_training_equal_the_closed_form(model: Any, length: int) -> None:
    matrices = (
        sum(p.numel() for name, p in model.network.named_parameters() if p.ndim == 2 and "embed" not in name) + model.head.weight.numel()
    )
    products = 6 * matrices * length
    # Two products in the forward and five in the backward pass, over the causal pairs.
    attention = 2 * (2 + 5) * 32 * length * length // 2
    predicted = dry_run(model, Plain(), 1, length)
    assert predicted.work.flops.total() == products + attention


@pytest.mark.slow
def test_the_flops_of_a_mixture_of_experts_equal_the_closed_form() -> None:
    model, length = LanguageModel(exotic("mixtral", num_hidden_layers=1), "mixtral"), 48
    config = model.network.config
    layer = model.network.base_model.layers[0]
    # Every token passes the attention, the router and two experts of three matrices each.
    per_layer = sum(p.numel() for p in layer.self_attn.parameters()) + layer.mlp.gate.weight.numel()
    per_layer += 2 * 3 * config.hidden_size * config.intermediate_size
    products = 6 * (per_layer + model.head.weight.numel()) * length
    attention = 2 * (2 + 5) * 32 * length * length // 2
    assert dry_run(model, Plain(), 1, length).work.flops.total() == products + attention


@pytest.mark.slow
def test_a_convolution_is_planned() -> None:
    model = LanguageModel(exotic("lfm2", num_hidden_layers=1, layer_types=["conv"]), "lfm2")
    work = dry_run(model, Plain(), 1, 32).work
    assert seconds_of(work, model.device) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), all_values(["qwen3_moe", "qwen3_next", "bamba"], ["fp32", "bf16"]))
def test_experts_and_hybrids_are_planned(kind: str, precision: str) -> None:
    model = LanguageModel(exotic(kind), kind)
    model.precision = precision
    plain, *others = advise(model, 32, 1).costs
    assert others
    assert all(0 < other.peak < plain.peak and other.seconds > 0 for other in others)


@pytest.mark.slow
def test_keeping_more_saves_work_and_needs_more_memory(build_tiny: Callable[..., Any]) -> None:
    model = build_tiny().model.build(257, seed=0)  # of 2 layers: with 1, the layer that is recomputed is the only one
    costs = {cost.plan.overrides: cost for cost in advise(model, 1024, 1).costs}
    words = [plan.overrides for plan in PLANS.values()]
    plain, checkpoint, checkpoint_again, stream, stream_again = (costs[word] for word in words)
    assert plain.peak > checkpoint.peak > checkpoint_again.peak
    assert stream.peak >= stream_again.peak  # at short lengths other tensors set the peak
    assert plain.flops < checkpoint.flops < checkpoint_again.flops
    assert stream.flops < stream_again.flops


@pytest.mark.slow
def test_as_few_layers_are_recomputed_as_fit(build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny("model.num_layers=4").model.build(257, seed=0)
    before = advise(model, 1024, 1)
    plain, checkpoint = (next(cost for cost in before.costs if cost.plan == plan) for plan in (Plain(), Checkpoint()))
    room = checkpoint.peak + 0.6 * (plain.peak - checkpoint.peak)  # for the activations of two layers of four
    held = before.gradients + before.optimizer
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: (room + held) / 0.9)
    advice = advise(model, 1024, 1)
    (kept,) = (cost for cost in advice.costs if getattr(cost.plan, "keep_layers", 0))
    assert kept.plan == Checkpoint(keep_layers=2)
    assert checkpoint.peak < kept.peak <= advice.available < plain.peak
    assert plain.flops < kept.flops < checkpoint.flops
    really = dry_run(model, kept.plan, 1, 1024)
    assert kept.peak == pytest.approx(really.peak, rel=0.15)
    assert kept.flops == pytest.approx(really.work.flops.total(), rel=0.02)
    assert advice.longest(kept.plan) >= 1024


@pytest.mark.slow
@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.grid), 512])
def test_a_longer_step_is_predicted_from_shorter_ones(build_tiny: Callable[..., Any], window: int | None) -> None:
    more = ["model.num_layers=1"]
    if window is not None:
        more += ["context/attention=window", f"context.attention.window_length={window}"]
        more += ["context.target_length=1024", "batch_tokens=1024"]
    job = build_tiny(*more)
    model = job.model.build(257, seed=0)
    model.attention = job.strategy.attention.for_length(5120, 32)
    plan, length = Stream(), 5120  # longer than the dry runs from which it is extrapolated
    peak, work = StepCosts(model).predict(plan, 1, length)
    really = dry_run(model, plan, 1, length)
    assert peak == pytest.approx(really.peak, rel=0.05)
    assert work.flops.total() == pytest.approx(really.work.flops.total(), rel=0.03)


@pytest.mark.slow
def test_a_dry_run_does_not_change_the_model_or_the_random_state(model: Any) -> None:
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    state = torch.get_rng_state()
    for plan in PLANS.values():
        dry_run(model, plan, 1, 1024)
    assert torch.equal(torch.get_rng_state(), state)
    for name, p in model.network.named_parameters():
        assert p.grad is None
        assert torch.equal(p, before[name])
    assert "forward" not in vars(model.network.base_model.layers[0].mlp)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tuning"), [*all_values(["fp32", "bf16"], ["full", "lora"]), ("bf16_pure", "full")])
def test_every_precision_and_tuning_is_planned(build_tiny: Callable[..., Any], precision: str, tuning: str) -> None:
    job = build_tiny("model.num_layers=1", f"tuning={tuning}")
    model = job.model.build(257, seed=0)
    use_precision(model, precision)
    job.tuning.apply(model, 0)
    advice = advise(model, 128, 2)
    size = 2 if precision == "bf16_pure" else 4
    assert advice.weights == sum(size * p.numel() for p in model.network.parameters())
    assert advice.gradients == sum(size * p.numel() for p in model.parameters())
    assert advice.optimizer == 2 * advice.gradients  # no tensor is large enough for a state of 8 bits
    assert [type(cost.plan) for cost in advice.costs] == [Plain, Checkpoint, Checkpoint]  # the sequence is shorter than a chunk of stream


ATTENTIONS = ["window", "sinks", "shifted", "self_extend", "rerope", "dual_chunk", "global_local"]


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "plan"), all_values(ATTENTIONS, [Plain(), Checkpoint(), Stream(chunk_length=96)]))
def test_every_attention_is_planned(build_tiny: Callable[..., Any], pattern: str, plan: Memory) -> None:
    job = build_tiny("model.num_layers=1", f"context/attention={pattern}")
    model = job.model.build(257, seed=0)
    model.extend(job.strategy, 32, 128)
    assert dry_run(model, plan, 1, 128).peak > 0


@pytest.mark.slow
def test_a_bidirectional_model_is_not_streamed() -> None:
    assert not any(isinstance(cost.plan, Stream) for cost in advise(LanguageModel(network("bert", IMPLEMENTATION), "bert"), 64, 1).costs)


@pytest.mark.slow
def test_no_dry_run_reads_past_a_table_of_positions() -> None:
    model = LanguageModel(network("gpt2", IMPLEMENTATION), "gpt2")
    end = model.original_length
    steps = StepCosts(model)
    assert steps.predict(Plain(), 1, end)[0] > 0
    assert steps.longest(Plain(), 2**40) == end


@pytest.mark.slow
def test_a_chosen_plan_keeps_its_settings(model: Any) -> None:
    words = [cost.plan.overrides for cost in advise(model, 128, 1, Stream(chunk_length=64)).costs]
    assert "memory=stream memory.chunk_length=64" in words
    assert "memory=stream memory.chunk_length=64 memory.keep_attention=false" in words


def cost_of(plan: Memory, peak: int, seconds: float) -> PlanCost:
    return PlanCost(plan, peak, 1.0, seconds)


def advice(*costs: PlanCost, free: int, longest: int = 640) -> Advice:
    return Advice(1024, 1, 100, 100, 200, free, costs, lambda plan: longest)


@pytest.mark.parametrize(
    ("free", "expected"),
    [(10_000, Plain), (2000, Checkpoint), (1000, Stream), (500, None)],
)
def test_the_fastest_plan_that_fits_is_recommended(free: int, expected: type[Memory] | None) -> None:
    found = advice(cost_of(Plain(), 5000, 10.0), cost_of(Checkpoint(), 1000, 12.0), cost_of(Stream(), 400, 13.0), free=free)
    assert (found.recommended and type(found.recommended.plan)) is expected


def test_the_simplest_of_equally_fast_plans_is_recommended() -> None:
    found = advice(cost_of(Plain(), 5000, 10.2), cost_of(Stream(), 400, 10.0), free=10_000)
    assert found.recommended is not None
    assert isinstance(found.recommended.plan, Plain)


def test_a_refusal_names_the_numbers_and_the_longest_that_fits() -> None:
    found = str(advice(cost_of(Plain(), 5 * 2**30, 1.0), cost_of(Stream(), 2**30, 2.0), free=2**28).refusal())
    assert "context.target_length=1024: fits under no memory plan: the smallest, memory=stream, takes 1.00 GiB" in found
    assert "256 MiB are free" in found
    assert "use context.target_length=640 at most" in found


@pytest.mark.slow
def test_the_longest_length_fits_and_a_longer_one_does_not(model: Any) -> None:
    steps, room = StepCosts(model), 12 * 2**20
    for plan in (Plain(), Checkpoint(micro_batch_tokens=512, mlp_chunk_length=512)):
        longest = steps.longest(plan, room)
        assert dry_run(model, plan, 1, longest).peak <= 1.05 * room
        assert dry_run(model, plan, 1, longest + longest // 10).peak > room


@pytest.mark.slow
def test_the_longest_length_on_disk_fits_the_disk(build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, values and their gradients of 2 layers: 2 heads of 8 dimensions each, in float32."""
    model = build_tiny("model.num_layers=2").model.build(257, seed=0)
    monkeypatch.setattr("elongate.memory.planner.step_costs.free_disk", lambda: 2**22)
    longest = StepCosts(model).longest(Stream(keep_attention=False, on_disk=True), 2**34)
    assert longest == 2**22 // (2 * 4 * 2 * 8 * 4)


def test_the_command_line_accepts_the_recommended_overrides() -> None:
    config, _ = composed(*Stream(chunk_length=256, keep_attention=False).overrides.split())
    assert config.memory.chunk_length == 256
    assert config.memory.keep_attention is False
