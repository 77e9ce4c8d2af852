"""Models with a position that plain transformers lacks: we open them as trained, and transformers refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.networks import NO_SPECIAL
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from elongate.context.attention.full import Full
from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.alibi import Alibi
from elongate.context.position.none import Unchanged
from elongate.context.position.position import Position
from elongate.context.position.yarn import Yarn
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError
from elongate.models.compatibility import check_head, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained

TOKENS = torch.randint(257, (2, 100), generator=torch.Generator().manual_seed(0))
GPT2 = {"vocab_size": 257, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **NO_SPECIAL}
LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def built(kind: str) -> LanguageModel:
    torch.manual_seed(0)
    llama = LlamaConfig(vocab_size=257, max_position_embeddings=64, **LLAMA, **NO_SPECIAL)
    network = GPT2LMHeadModel(GPT2Config(**GPT2)) if kind == "gpt2" else LlamaForCausalLM(llama)
    network.set_attn_implementation(IMPLEMENTATION)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return LanguageModel(network.eval(), kind)


def strategy(position: Position, length: int) -> Strategy:
    return Strategy(position=position, attention=Full(), curriculum=Fixed(), target_length=length)


@pytest.fixture(params=["llama", "gpt2"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LanguageModel, Path]:
    model = built(request.param)
    model.extend(strategy(Alibi(), 256), 64, 256)
    model.save(tmp_path / "model")
    return model, tmp_path / "model"


def opened(folder: Path) -> LanguageModel:
    return Pretrained(source=str(folder)).build(257, seed=0)


def hidden(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.hidden(TOKENS)


@pytest.mark.slow
def test_a_folder_is_opened_with_its_position_and_its_length(saved: tuple[LanguageModel, Path]) -> None:
    model, folder = saved
    again = opened(folder)
    assert torch.equal(hidden(again), hidden(model))
    check_head(again)
    assert again.position == Alibi()
    assert again.original_length == Pretrained(source=str(folder)).original_length == 256
    assert again.has == {"causal", "regions", "computed_positions"}
    again.save(folder.with_name("again"))
    assert torch.equal(hidden(opened(folder.with_name("again"))), hidden(model))


def test_plain_transformers_does_not_open_the_folder(saved: tuple[LanguageModel, Path]) -> None:
    _, folder = saved
    for opener in (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM):
        with pytest.raises(ValueError, match="has model type `elongate-"):
            opener.from_pretrained(folder)
    # These only warn about the model type, but they find no weights.
    for opener in (LlamaForCausalLM, LlamaModel, GPT2LMHeadModel, GPT2Model):
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            opener.from_pretrained(folder)


def test_a_model_keeps_the_position_it_was_trained_with(saved: tuple[LanguageModel, Path]) -> None:
    model, folder = saved
    again = opened(folder)
    assert again.extend(strategy(Unchanged(), 512), 256, 512)["slopes"] == list(model.positions.slopes or ())
    assert torch.equal(hidden(again), hidden(model))
    again.save(folder.with_name("longer"))
    assert opened(folder.with_name("longer")).original_length == 512
    message = "context/position=yarn: needs rotary positions, which model=pretrained does not have"
    with pytest.raises(ConfigError, match=message):
        check_strategy(again, strategy(Yarn(), 512), 256)


def test_a_plain_position_is_saved_as_plain_transformers_saves_it(tmp_path: Path) -> None:
    model = built("llama")
    model.extend(strategy(Yarn(), 256), 64, 256)
    model.save(tmp_path / "ours")
    model.network.save_pretrained(tmp_path / "theirs")
    for file in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("change", [{"word": "teleport"}, {"word": "position"}, {"speed": 3}], ids=str)
def test_a_position_of_another_version_is_refused(saved: tuple[LanguageModel, Path], change: dict[str, Any]) -> None:
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    config["elongate"]["position"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"model\.source=.*: was written by another version of Elongate: its position ") as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
