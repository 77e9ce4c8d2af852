"""What a run exports: reopened and compared, in the checkpoint's dtype, with the files that came with it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.models.small import LENGTH, TARGET, TOKENS, VOCAB, gpt, strategy
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.errors import ConfigError
from elongate.models.bert import Bert
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.models.gpt import Gpt
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.training.export import export

CARD = "---\nlicense: other\nlicense_name: tiny\nlanguage: en\n---\n# Tiny\n"
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB + 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
}


def checkpoint(folder: Path) -> Path:
    """A checkpoint as it is published: bfloat16, without special tokens in its configuration, with further files."""
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=None)).to(torch.bfloat16)
    network.save_pretrained(folder)
    ByteTokenizer().save(folder)
    edit(folder / "tokenizer_config.json", model_max_length=LENGTH)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    edit(folder / "tokenizer.json", truncation={"direction": "Right", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0})
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    (folder / "generation_config.json").write_text(json.dumps({"max_length": LENGTH, "top_k": 7, "temperature": 0.5, "do_sample": False}))
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("tiny licence")
    (folder / "processor_config.json").write_text(json.dumps({"text": {"max_length": LENGTH}, "size": LENGTH}))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool.jinja").write_text("{{ tools }}")
    for unwanted in ("modeling_tiny.py", "pytorch_model.bin", "model.safetensors.index.json", "trainer_state.json"):
        (folder / unwanted).write_text("{}")
    return folder


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("source") / "tiny")


def extended(source: Path, word: str = "yarn", **fields: Any) -> tuple[LanguageModel, Pretrained]:
    choice = Pretrained(source=str(source), **fields)
    model = choice.build(VOCAB, seed=0)
    with torch.no_grad():  # as training does: digits that bfloat16 does not have
        model.network.model.layers[0].mlp.up_proj.weight.add_(1e-4)
    model.extend(strategy(word), LENGTH, TARGET)
    return model, choice


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Path, dict[str, Any]]:
    model, choice = extended(source)
    folder = tmp_path_factory.mktemp("exported") / "model"
    before = os.umask(0o027)
    try:
        evidence = export(model, load_tokenizer(source), folder, choice)
    finally:
        os.umask(before)
    return model, folder, evidence


Exported = tuple[LanguageModel, Path, dict[str, Any]]


# -- weights ---------------------------------------------------------------------------------------------------------------


def test_the_dtype_of_the_checkpoint_is_kept_and_the_measured_weights_are_those_exported(exported: Exported) -> None:
    model, folder, evidence = exported
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert read(folder, "config.json")["dtype"] == evidence["dtype"] == "bfloat16"
    for name, weights in model.network.state_dict().items():
        assert weights.dtype is torch.float32
        assert torch.equal(weights, tensors[name].float())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_dtype_can_be_chosen(dtype: str, source: Path, tmp_path: Path) -> None:
    model, choice = extended(source, export_dtype=dtype)
    assert export(model, ByteTokenizer(), tmp_path / "model", choice)["dtype"] == dtype
    weights = load_file(tmp_path / "model/model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert weights.dtype is getattr(torch, dtype)
    assert torch.equal(weights.float(), model.network.model.layers[0].mlp.up_proj.weight)


def test_a_tensor_that_the_checkpoint_stores_in_float32_keeps_its_digits(source: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "mixed")
    network = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    network.model.norm.to(torch.float32)
    network.generation_config = GenerationConfig()
    network.save_pretrained(folder)
    model, choice = extended(folder)
    model.network.model.norm.weight.data.fill_(1 + 2**-20)
    export(model, ByteTokenizer(), tmp_path / "model", choice)
    tensors = load_file(tmp_path / "model/model.safetensors")
    assert tensors["model.norm.weight"].tolist() == [1 + 2**-20] * 32
    assert tensors["lm_head.weight"].dtype is torch.bfloat16


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    export(gpt(), ByteTokenizer(), tmp_path / "model", Gpt(export_dtype="bfloat16"))
    assert "lm_head.weight" not in load_file(tmp_path / "model/model.safetensors")


def test_weights_beyond_the_range_of_a_dtype_are_refused(source: Path, tmp_path: Path) -> None:
    model, choice = extended(source, export_dtype="float16")
    model.network.lm_head.weight.data[0, 0] = 1e5
    message = r"model\.export_dtype=float16: cannot store lm_head\.weight, which has values beyond 65504; use model\.export_dtype=float32"
    with pytest.raises(ConfigError, match=message):
        export(model, ByteTokenizer(), tmp_path / "model", choice)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="export_dtype=fp8: must be auto, float32, bfloat16 or float16; use export_dtype=auto"):
        Gpt(export_dtype="fp8")


def test_every_file_has_the_mode_of_the_umask(exported: Exported) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in exported[1].rglob("*") if file.is_file()}
    assert set(modes.values()) == {0o640}, modes


# -- files besides the weights ---------------------------------------------------------------------------------------------


def test_what_came_with_the_checkpoint_is_exported_with_the_new_length(exported: Exported) -> None:
    _, folder, evidence = exported
    assert evidence["copied"] == ["LICENSE", "processor_config.json"]
    assert read(folder, "processor_config.json") == {"text": {"max_length": TARGET}, "size": LENGTH}
    assert not {"modeling_tiny.py", "pytorch_model.bin", "model.safetensors.index.json", "trainer_state.json"} & set(os.listdir(folder))
    assert "auto_map" not in read(folder, "config.json")
    generation = read(folder, "generation_config.json")
    assert {key: generation[key] for key in ("max_length", "top_k", "temperature")} == {
        "max_length": TARGET,
        "top_k": 7,
        "temperature": 0.5,
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_chat_template() == "{{ messages }}"
    assert (folder / "additional_chat_templates/tool.jinja").read_text() == "{{ tools }}"
    text = "word " * TARGET
    assert len(tokenizer(text, truncation=True)["input_ids"]) == TARGET
    assert tokenizer(text)["input_ids"] == ByteTokenizer().encode(text).tolist()
    assert read(folder, "tokenizer.json")["truncation"]["max_length"] == TARGET


def test_another_tokenizer_does_not_get_the_files_of_the_checkpoints_own(source: Path, tmp_path: Path) -> None:
    model, choice = extended(source)
    (source / "vocab.json").write_text("{}")
    export(model, ByteTokenizer(), tmp_path / "model", choice)
    (source / "vocab.json").unlink()
    assert not {"vocab.json", "special_tokens_map.json", "additional_chat_templates"} & set(os.listdir(tmp_path / "model"))


@pytest.mark.slow
def test_generation_ends_where_the_tokenizer_says(exported: Exported, tmp_path: Path) -> None:
    """Neither checkpoint nor own models name an end of text in their configuration."""
    export(gpt(), ByteTokenizer(), tmp_path / "own")
    for folder in (exported[1], tmp_path / "own"):
        network = AutoModelForCausalLM.from_pretrained(folder)
        assert network.config.eos_token_id == network.generation_config.eos_token_id == ByteTokenizer().end_of_document
        others = [token for token in range(network.config.vocab_size) if token != ByteTokenizer().end_of_document]
        assert network.generate(TOKENS[:1, :4], do_sample=False, max_new_tokens=20, suppress_tokens=others).shape[1] == 5


def test_ids_that_the_checkpoint_states_are_kept(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    edit(folder / "config.json", eos_token_id=[3, 4])
    edit(folder / "tokenizer_config.json", pad_token="a", bos_token="b")
    model, choice = extended(folder)
    export(model, load_tokenizer(folder), tmp_path / "model", choice)
    config, generation = read(tmp_path / "model", "config.json"), read(tmp_path / "model", "generation_config.json")
    for content in (config, generation):
        assert (content["eos_token_id"], content["pad_token_id"], content["bos_token_id"]) == ([3, 4], 97, 98)


@pytest.mark.parametrize("word", ["bert", "bidirectional_autoencoder"])
def test_own_models_are_exported_the_same_way(word: str, tmp_path: Path) -> None:
    sizes = (
        {"num_layers": 1}
        if word == "bert"
        else {"num_encoder_layers": 1, "num_decoder_layers": 1, "block_length": 8, "latents_per_block": 8}
    )
    chosen = {"bert": Bert, "bidirectional_autoencoder": BidirectionalAutoencoder}[word](
        original_length=LENGTH, dim=32, num_heads=2, mlp_dim=48, export_dtype="bfloat16", **sizes
    )
    tokenizer = ByteTokenizer().with_mask()
    model = chosen.build(tokenizer.vocab_size, seed=0)
    model.extend(strategy("interpolate" if word == "bert" else "yarn"), LENGTH, TARGET)
    evidence = export(model, tokenizer, tmp_path / "model", chosen)
    assert evidence["verified"]["logits_error"] < 1e-5
    assert evidence["verified"]["tokenizer"]
    reopened = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert reopened.dtype is torch.bfloat16
    assert reopened.config.eos_token_id == tokenizer.end_of_document
    assert (
        getattr(reopened.config, "pad_token_id", None) is None
    )  # the embedding of a padding token would stay as it is in further training
    tokens = TOKENS[:, :TARGET]
    with torch.no_grad():
        assert_close(reopened.float()(tokens).logits, model.logits(model.hidden(tokens)), rtol=0, atol=2e-5)
