"""Plans from a configuration alone, against those of the model with its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exotic import EXOTIC, exotic
from transformers import LlamaConfig, LlamaForCausalLM

from elongate.errors import ConfigError
from elongate.memory.plain import Plain
from elongate.memory.planner import planner
from elongate.memory.planner.depth import depths
from elongate.memory.planner.planner import advise
from elongate.models.language_model import LanguageModel
from elongate.models.miniature import miniature
from elongate.models.pretrained import Pretrained
from elongate.models.weightless import Weightless
from elongate.training.plan import plan

_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False,
}


@pytest.fixture
def described(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def described(config: dict[str, Any]) -> Path:
        (tmp_path / "checkpoint").mkdir()
        (tmp_path / "checkpoint/config.json").write_text(json.dumps(config))
        return tmp_path / "checkpoint"

    return described


@pytest.mark.slow
def test_an_8b_model_is_described_without_its_weights(described: Callable[[dict[str, Any]], Path]) -> None:
    model = Pretrained(source=str(described(_8B))).describe(0)
    found = depths(model)
    assert found is not None
    assert found.whole == 32
    weightless = Weightless(model, found.shallow)
    assert sum(p.numel() for p in weightless.miniature.network.parameters()) < 2**23
    assert all(p.is_meta for p in model.network.parameters())
    # Embedding and head; four matrices of attention, three of the MLP and two norms in each layer; the last norm.
    attention, mlp = 2 * 4096**2 + 2 * 4096 * 1024, 3 * 4096 * 14336
    assert model.num_parameters() == 2 * 128256 * 4096 + 32 * (attention + mlp + 2 * 4096) + 4096


@pytest.mark.slow
def test_a_plan_without_weights_is_that_of_the_model(build_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_KINDS", (Plain(),))
    job = build_tiny("plan=true", "model.num_layers=4", "tuning=lora")
    found = []
    monkeypatch.setattr("elongate.training.plan.advise", lambda *given: found.append(advise(*given)) or found[0])
    assert plan(job).startswith("One step: ")
    model = job.model.build(257, seed=0)
    model.extend(job.strategy, 32, 128)
    job.tuning.apply(model, 0)
    expected = advise(model, 128, found[0].rows)
    assert (found[0].weights, found[0].gradients) == (expected.weights, expected.gradients)
    assert [(c.plan, c.peak, c.flops) for c in found[0].costs] == [(c.plan, c.peak, c.flops) for c in expected.costs]
    # The free memory does not contain the weights yet.
    assert not found[0].is_loaded
    assert found[0].available < 0.9 * found[0].free - found[0].weights


KINDS = [*EXOTIC]


@pytest.mark.grid
@pytest.mark.parametrize("kind", KINDS)
def test_a_miniature_answers_like_the_model(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elongate.models.miniature._LARGEST", 0)
    whole = LanguageModel(exotic(kind), kind)
    with torch.device("meta"):
        described = LanguageModel(type(whole.network)(whole.network.config), kind)
    found = depths(described)
    small = miniature(described, None if found is None else found.shallow)
    for name in ("is_causal", "meets_in_attention", "separates_documents", "receives_layouts", "has"):
        assert getattr(small, name) == getattr(whole, name), name


def test_the_parts_of_a_miniature_are_smaller_and_its_head_dimension_is_not() -> None:
    config = LlamaConfig(**{key: value for key, value in _8B.items() if key not in ("architectures", "model_type")})
    with torch.device("meta"):
        described = LanguageModel(LlamaForCausalLM(config), "llama")
    small = miniature(described, 1).config
    assert (small.num_hidden_layers, small.num_attention_heads, small.num_key_value_heads) == (1, 4, 1)
    assert (small.hidden_size, small.head_dim) == (512, 128)
    assert small.bos_token_id < small.vocab_size


def test_a_folder_without_weights_is_still_refused_by_a_run(described: Callable[[dict[str, Any]], Path]) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        Pretrained(source=str(described(_8B | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}))).build(257, seed=0)
