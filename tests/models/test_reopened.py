"""An exported folder: opened again and compared, and readable by transformers 4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.small import LENGTH, TARGET, gpt, strategy
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    PreTrainedConfig,
)

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import RunError
from elongate.models.language_model import LanguageModel
from elongate.models.legacy_config import with_legacy_keys
from elongate.models.reopened import verify_reopened
from elongate.training.export import export


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# -- transformers 4 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["yarn", "pi", "longrope", "abf"])
def test_config_json_also_has_the_keys_of_transformers_4(word: str, tmp_path: Path) -> None:
    """transformers 4.57 opens exports with these keys with the same logits; see docs/recipes/checkpoint.md."""
    model = gpt(rope_theta=5e5)
    model.extend(strategy(word), LENGTH, TARGET)
    export(model, ByteTokenizer(), tmp_path / word)
    config = read(tmp_path / word, "config.json")
    parameters = config["rope_parameters"]
    assert config["rope_theta"] == parameters["rope_theta"]
    expected = {key: value for key, value in parameters.items() if key != "rope_theta"}
    assert config.get("rope_scaling") == (None if word == "abf" else expected)
    # There transformers 4 reads from which length on the long factors act.
    assert config.get("original_max_position_embeddings") == (LENGTH if word == "longrope" else None)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / word).config.rope_parameters == parameters


LEGACY: dict[str, tuple[PreTrainedConfig, dict[str, Any]]] = {
    "gemma3": (
        Gemma3TextConfig(
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        ),
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "gpt_neox": (
        GPTNeoXConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4, "partial_rotary_factor": 0.5}),
        {"rotary_emb_base": 5e4, "rotary_pct": 0.5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
    # There transformers 5 would apply the scaling of old keys to both kinds of layers.
    "modernbert": (
        ModernBertConfig(
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        ),
        {},
    ),
}


@pytest.mark.parametrize("kind", LEGACY)
def test_old_keys_have_the_names_of_the_architecture_or_are_left_out(kind: str) -> None:
    config, added = LEGACY[kind]
    content = json.loads(config.to_json_string())
    assert with_legacy_keys(content) == content | added


# -- verification ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Any, str]] = {
    "theta": (lambda p: {"rope_theta": 5e3}, r"frequency \d of model\.rotary_emb is .* reopened and .* as trained"),
    "factor": (lambda p: {"factor": 2.0}, r"frequency \d of model\.rotary_emb is"),
    "attention": (
        lambda p: {"attention_factor": 1.5},
        r"the attention factor of .* is 1\.5 reopened and 1\.13863 as trained",
    ),
}


@pytest.mark.parametrize("small", [0, 1 << 30], ids=["compared", "reread"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_another_model_is_refused(fault: str, small: int, tmp_path: Path) -> None:
    model = gpt()
    model.extend(strategy("yarn"), LENGTH, TARGET)
    model.save(tmp_path)
    evidence = verify_reopened(model, tmp_path, LENGTH, TARGET, small)
    assert evidence["weights"] == ("reread" if small else "compared")
    assert evidence["logits_error"] < 1e-5
    change, message = FAULTS[fault]
    parameters = read(tmp_path, "config.json")["rope_parameters"]
    edit(tmp_path / "config.json", rope_parameters=parameters | change(parameters))
    with pytest.raises(RunError, match=f"is not the model that was trained: {message}") as refused:
        verify_reopened(model, tmp_path, LENGTH, TARGET, small)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("small", [0, 1 << 30], ids=["compared", "reread"])
def test_falcon_with_slopes_is_reopened_with_the_attention_that_was_trained(small: int, tmp_path: Path) -> None:
    config = FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True)
    config._attn_implementation = "eager"  # in transformers 5.23 its `sdpa`, which is the default, gives other logits
    torch.manual_seed(0)
    model = LanguageModel(FalconForCausalLM(config), word="pretrained")
    for weight in model.network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save(tmp_path)
    assert verify_reopened(model, tmp_path, LENGTH, LENGTH, small)["logits_error"] < 1e-5


def test_files_of_a_large_model_with_other_weights_are_refused(tmp_path: Path) -> None:
    model = gpt()
    model.save(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    faults = {
        f"{name} in model.safetensors has other values": weights | {name: weights[name].index_fill(0, torch.tensor([0]), 0.5)},
        f"{name} is in none of its files": {other: weight for other, weight in weights.items() if other != name},
        "contains added, which is not in the network": weights | {"added": torch.zeros(1)},
    }
    for message, changed in faults.items():
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(RunError, match=message):
            verify_reopened(model, tmp_path, LENGTH, LENGTH, small=0)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = gpt()
    model.save(tmp_path)
    model.network.model.norm.weight.data[0] += 1
    with pytest.raises(RunError, match=r"its logits differ by .* of their size"):
        verify_reopened(model, tmp_path, LENGTH, LENGTH)


def test_a_large_model_is_compared_without_a_second_copy_of_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gpt()
    model.extend(strategy("yarn"), LENGTH, TARGET)
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("opened a second time"))
    model.save(tmp_path)
    assert verify_reopened(model, tmp_path, LENGTH, TARGET, small=0)["logits_error"] < 1e-5
