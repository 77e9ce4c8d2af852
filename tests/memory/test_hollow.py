"""Dry runs on tensors without numbers against steps with numbers, whose bytes are counted in another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.memory.plans import PLANS
from tests.memory.test_bytes import counted
from tests.networks import network
from transformers import AutoModelForCausalLM, LlamaConfig

from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Plan
from elongate.memory.planner.dry_run import dry_run
from elongate.memory.planner.hollow import HollowMode
from elongate.memory.planner.step_costs import StepCosts
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel


@pytest.mark.parametrize(
    "plan", ["stream 7", pytest.param("plain", marks=pytest.mark.grid), pytest.param("checkpoint", marks=pytest.mark.grid)]
)
def test_a_dry_run_has_the_peak_of_the_step(plan: str) -> None:
    model = LanguageModel(network("llama-2", IMPLEMENTATION, torch.float32, num_hidden_layers=4), "llama")
    # A step with numbers also keeps a few that a dry run does not have.
    assert dry_run(model, PLANS[plan], 1, 64).peak == pytest.approx(counted(PLANS[plan], 64).peak, rel=0.01)


def test_calls_that_differ_only_in_the_type_of_a_number_are_told_apart() -> None:
    with HollowMode({}, torch.device("cpu")):
        numbers = torch.arange(4)
        assert (numbers * 2).dtype == torch.int64
        assert (numbers * 2.0).dtype == torch.float32
        assert (numbers * True).dtype == torch.int64


def test_a_view_shares_its_memory_and_frees_it_with_its_last_user() -> None:
    mode = HollowMode({}, torch.device("cpu"))
    with mode:
        whole = torch.zeros(8, 4)
        part = whole[2:4].T
        assert part.shape == (4, 2)
        assert mode.account.bytes == 8 * 4 * 4
        del whole
        assert mode.account.bytes == 8 * 4 * 4
        del part
        assert mode.account.bytes == 0


def test_memory_of_the_host_does_not_count_for_a_card() -> None:
    mode = HollowMode({}, torch.device("cuda"))
    with mode:
        kept = torch.zeros(16, dtype=torch.bfloat16)
        assert mode.account.bytes == 0
        assert kept.device.type == "cpu"


@pytest.fixture(scope="module")
def wide_vocabulary() -> LanguageModel:
    """Its loss sets the peak of short sequences, and its layers that of long ones."""
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=8192, num_hidden_layers=8, max_position_embeddings=8192)
    return LanguageModel(AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION), "llama")


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        Checkpoint(keep_attention=False, mlp_chunk_length=512, micro_batch_tokens=512),
        *(
            pytest.param(plan, marks=pytest.mark.grid)
            for plan in (Checkpoint(mlp_chunk_length=512, micro_batch_tokens=512), Stream(), Stream(keep_attention=False))
        ),
    ],
    ids=lambda plan: plan.overrides,
)
def test_few_pieces_predict_many(plan: Plan, wide_vocabulary: LanguageModel) -> None:
    length = 16 * 512
    peak, work = StepCosts(wide_vocabulary).predict(plan, 1, length)
    really = dry_run(wide_vocabulary, plan, 1, length)
    assert peak == pytest.approx(really.peak, rel=0.03)
    assert work.flops.total() == pytest.approx(really.work.flops.total(), rel=0.03)
