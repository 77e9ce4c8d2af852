"""Fused kernels: confined to one network, checked on it, and the same as transformers' layers where Triton can interpret them."""

from __future__ import annotations

import copy
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.models import small
from tests.networks import NETWORKS
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

from elongate.context.position.yarn import Yarn
from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Plan
from elongate.memory.plain import Plain
from elongate.memory.planner.dry_run import dry_run
from elongate.memory.stream import Stream
from elongate.models.kernels import Kernels, require_kernels, use_kernels
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example
from elongate.training.evidence import evidence_lines

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # without Liger, no test computes on the second
ROPE, NORM = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm


class _Experts(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        raise AssertionError("experts keep their own computation")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """A package that replaces layers of Llama in Liger's way, with torch's operators; its calls are counted."""
    counted: Counter[str] = Counter()

    def rope(*args: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        counted["rope"] += 1
        return ROPE(*args, **keywords)

    class Norm(NORM):
        def forward(self, states: Tensor) -> Tensor:
            counted["norm"] += 1
            states = counted["scale"] * NORM.forward(self, states)
            return states + counted["gradient"] * (states - states.detach())

    def apply(rms_norm: bool = True, cross_entropy: bool = True, model: Any = None) -> None:
        assert not cross_entropy, "the losses are ours"
        modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm = rope, Norm
        for module in model.modules():
            if isinstance(module, NORM):
                module._get_name = lambda: "Norm"
                module.forward = Norm.forward.__get__(module)

    counted["scale"] = 1  # another value is a wrong kernel, and 1 below `gradient` a wrong gradient
    patches, swiglu = ModuleType("liger_kernel.transformers.monkey_patch"), ModuleType("liger_kernel.transformers.swiglu")
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN, swiglu.LigerExperts = {"llama": apply}, _Experts
    for module in (ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers"), patches, swiglu):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("elongate.models.kernels.find_spec", lambda name: name)
    monkeypatch.setattr("elongate.models.kernels.version", lambda name: "1.2.3")
    return counted


def logits(network: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return network(input_ids=torch.arange(12)[None], use_cache=False).logits


def test_kernels_act_on_one_network_and_leave_the_modules_of_transformers_alone(calls: Counter[str]) -> None:
    network, other = NETWORKS["llama-2"](), NETWORKS["llama-2"]()
    before = repr(network), list(network.state_dict()), network.config.to_dict(), logits(network)
    kernels = use_kernels(network, "liger", CUDA)
    assert kernels.evidence() == {
        "active": "liger-kernel 1.2.3",
        "layers": {"LlamaAttention": 2, "LlamaRMSNorm": 5},
        "state_error": 0.0,
        "gradient_error": 0.0,
        "reason": None,
    }
    assert (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm) == (ROPE, NORM)
    assert (repr(network), list(network.state_dict()), network.config.to_dict()) == before[:3]
    calls.clear()
    calls["scale"] = 1
    logits(other)
    assert calls == {"scale": 1}
    for used in (network, copy.deepcopy(network)):
        calls.clear()
        calls["scale"] = 1
        assert torch.equal(logits(used), before[3])
        assert calls == {"rope": 2, "norm": 5, "scale": 1}


def test_a_copy_computes_with_its_own_weights(calls: Counter[str]) -> None:
    network = NETWORKS["llama-2"]()
    use_kernels(network, "liger", CUDA)
    twin = copy.deepcopy(network)
    nn.init.zeros_(twin.get_submodule("model.norm").weight)
    assert not logits(twin).any()
    assert logits(network).any()


def test_a_run_says_which_kernels_are_active(calls: Counter[str]) -> None:
    model, strategy = small.gpt(), small.strategy("yarn")
    for kernels in (use_kernels(model.network, "liger", CUDA), Kernels(reason="liger-kernel is not installed")):
        model.kernels = kernels
        *_, line = evidence_lines(strategy, model.extend(strategy, small.LENGTH, small.TARGET))
        active = "liger-kernel 1.2.3: active in 2 LlamaAttention, 5 LlamaRMSNorm; states match transformers to 0e+00"
        assert line == f"kernels {active if kernels.layers else 'none: liger-kernel is not installed'}"


def test_kernels_that_compute_something_else_are_removed(calls: Counter[str]) -> None:
    network = NETWORKS["llama-2"]()
    before = logits(network)
    calls["scale"] = 2
    with pytest.raises(ConfigError, match=r"kernels=liger: cannot act on a llama: .* other states \(by .*; use kernels=none"):
        use_kernels(network, "liger", CUDA)
    found = use_kernels(network, "auto", CUDA)
    assert found.active == "none"
    assert "other states" in str(found.reason)
    calls.clear()
    assert torch.equal(logits(network), before)
    assert not calls


def test_a_wrong_gradient_is_found(calls: Counter[str]) -> None:
    calls["gradient"] = 1
    with pytest.raises(ConfigError, match=r"other states \(by 0e\+00, gradients by 2e\+00\)"):
        use_kernels(NETWORKS["llama-2"](), "liger", CUDA)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("gpt2", "cannot act on a gpt2: Liger has no kernels for it"), ("none", "liger-kernel is not installed; pip install")],
)
def test_liger_is_refused_and_auto_says_why(kind: str, reason: str, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS["llama-2" if kind == "none" else kind]()
    if kind == "none":
        monkeypatch.setattr("elongate.models.kernels.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=reason):
        use_kernels(network, "liger", CUDA)
    assert reason.startswith(str(use_kernels(network, "auto", CUDA).reason))
    assert use_kernels(network, "none", CUDA) == Kernels()


def test_on_a_cpu_auto_means_none_and_liger_is_refused(calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert use_kernels(NETWORKS["llama-2"](), "auto", CPU) == Kernels()
    with pytest.raises(ConfigError, match="only run on CUDA devices, and the device is cpu; use kernels=auto"):
        require_kernels("liger", CPU)
    require_kernels("auto", CPU)


# -- Liger itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device on which Liger's kernels run: CUDA, or a CPU that interprets them."""
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":  # read when Triton is imported
        pytest.skip("kernels need a CUDA device, or TRITON_INTERPRET=1: see `make test-kernels`")
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'elongate[gpu]'")
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed: pip install 'elongate[gpu]'")
    if torch.cuda.is_available():
        return CUDA
    from tests.interpreted import complete

    complete(monkeypatch)
    return CPU


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama-2", {"LlamaAttention": 2, "LlamaMLP": 2, "LlamaRMSNorm": 5}),
        ("qwen3", {"Qwen3Attention": 2, "Qwen3MLP": 2, "Qwen3RMSNorm": 9}),
        ("gemma2", {"Gemma2Attention": 2, "Gemma2MLP": 2, "Gemma2RMSNorm": 9}),
    ],
)
def test_liger_computes_what_transformers_computes(kind: str, layers: dict[str, int], device: torch.device) -> None:
    kernels = use_kernels(NETWORKS[kind]().to(device), "liger", device)
    assert kernels.layers == layers
    assert 0 < float(kernels.state_error or 0) < 1e-5
    assert float(kernels.gradient_error or 0) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("plan", [Checkpoint(mlp_chunk_length=8), Stream(chunk_length=8)], ids=lambda plan: plan.word)
def test_liger_trains_an_extended_model_with_the_gradients_of_transformers(plan: Plan, device: torch.device) -> None:
    tokens = small.TOKENS[:1, :17]
    example = Example(tokens[:, :-1], tokens[:, 1:], torch.ones(1, 16, dtype=torch.bool), None).to(device)

    def trained(prepare: Callable[[LanguageModel], None], plan: Plan) -> tuple[float, dict[str, Tensor]]:
        model = small.attending(torch.float32)
        model.network.to(device)
        model.place(Yarn(), small.LENGTH, small.TARGET)
        prepare(model)
        loss = plan.prepare(model, 16).backward(model, example)
        return loss, {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}

    def add_kernels(model: LanguageModel) -> None:
        model.kernels = use_kernels(model.network, "liger", device)

    loss, gradients = trained(add_kernels, plan)
    expected_loss, expected = trained(lambda model: None, Plain())
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.slow
def test_a_dry_run_knows_what_the_kernels_keep(device: torch.device) -> None:
    """RMSNorm keeps one state of each norm instead of two, and SwiGLU no product: a dry run needs less, and launches no kernel."""
    model = small.attending(torch.float32)
    model.network.to(device)
    plain = dry_run(model, Plain(), 1, 64)
    model.kernels = use_kernels(model.network, "liger", device)
    fused = dry_run(model, Plain(), 1, 64)
    assert fused.peak < 0.95 * plain.peak
    assert 0 < fused.work.moved < plain.work.moved
    assert sum(fused.work.flops.values()) == sum(plain.work.flops.values())
    assert model.hidden(small.TOKENS[:1, :8].to(device)).isfinite().all()
