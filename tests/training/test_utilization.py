"""Model FLOPs are those that torch counts, and MFU is their share of the card's peak."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.architectures.zoo import ZOO
from tests.models import small
from tests.networks import NETWORKS
from torch.utils.flop_counter import FlopCounterMode

from elongate.context.attention.window import WindowPattern
from elongate.hardware import CARDS, find_card
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example
from elongate.report.table import budget_facts
from elongate.training.utilization import Utilization, flops_per_token, model_flops
from elongate.tuning.lora import Lora

LENGTH = 24


def counted(network: Any) -> int:
    """The FLOPs of transformers' own attention, which computes the whole matrix."""
    network.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        network(input_ids=torch.arange(LENGTH)[None], use_cache=False).logits.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", ["llama-2", "gpt2", "gemma2", "qwen3"])
def test_model_flops_are_those_that_torch_counts(kind: str) -> None:
    model = LanguageModel(NETWORKS[kind](), kind)
    config, masked = model.config, LENGTH**2 - LENGTH * (LENGTH + 1) // 2
    if kind == "gemma2":  # one of the two layers has a window of 8
        masked += sum(max(0, place - 8) for place in range(1, LENGTH + 1)) / 2
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    unneeded = 12 * size * config.num_attention_heads * config.num_hidden_layers * masked
    assert model_flops(model, LENGTH) == counted(model.network) - unneeded


def test_a_strategy_that_sees_less_needs_less() -> None:
    model = small.gpt()
    full = model_flops(model, 64)
    model.attention = WindowPattern(8)
    assert model_flops(model, 64) == full - 12 * 8 * 4 * 2 * sum(max(0, place - 8) for place in range(1, 65))


@pytest.mark.slow
def test_frozen_weights_need_no_gradient() -> None:
    model = small.gpt(tie_weights=False)
    weights = flops_per_token(model) / 6
    Lora(rank=2).apply(model, 0)
    trained = sum(p.numel() for p in model.parameters())
    assert flops_per_token(model) == 4 * weights + 6 * trained


def test_experts_count_as_often_as_the_router_chooses_them() -> None:
    model = LanguageModel(ZOO["mixtral"].network(), "mixtral")
    experts = sum(p.numel() for name, p in model.network.named_parameters() if "experts" in name)
    chosen = model.config.num_experts_per_tok / model.config.num_local_experts
    tables = model.network.get_input_embeddings().weight.numel()
    others = sum(p.numel() for p in model.network.parameters() if p.ndim > 1) - experts - tables
    assert flops_per_token(model) == 6 * (others + chosen * experts)


@pytest.mark.grid
@pytest.mark.parametrize("row", ZOO.values(), ids=str)
def test_flops_are_known_for_every_architecture(row: Any) -> None:
    assert model_flops(LanguageModel(row.network(), row.name), LENGTH) > 0


def test_the_share_of_the_peak_counts_every_sequence_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.zeros(3, 16, dtype=torch.long)
    example = Example(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool), None)
    assert Utilization(5e12, 16, 1e15).figures([example, example], 0.5) == {"mfu": pytest.approx(0.06)}
    model = small.gpt()
    assert Utilization.of(model, 16).figures([example], 0.5) == {}
    monkeypatch.setattr("elongate.training.utilization.peak_flops", lambda device: 1e15)
    expected = 3 * model_flops(model, 16) / 0.5 / 1e15
    assert Utilization.of(model, 16).figures([example], 0.5) == {"mfu": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100-PCIE-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_found_by_the_name_that_cuda_reports(name: str, part: str | None) -> None:
    assert find_card(name) == (None if part is None else CARDS[part])


def test_the_table_of_a_run_shows_the_share_if_it_is_known() -> None:
    budget = dict.fromkeys(("tokens", "steps", "tokens_per_second", "peak_memory_bytes", "trained_parameters", "parameters"), 1)
    budget |= {"optimizer_state_bytes": 1, "seconds": 60.0, "base": None}
    for mfu, end in ((0.414, "1 tokens/s, 41% of the GPU's peak (MFU)"), (None, "1 tokens/s")):
        facts = dict(budget_facts(budget | {"mfu": mfu}))
        assert facts["time"].endswith(end)
