"""Checkpoints: opened with their head, refused in one line, and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import evaluated
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertLMHeadModel,
    BigBirdConfig,
    BigBirdForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    CodeGenConfig,
    CodeGenForCausalLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    PreTrainedModel,
    XGLMConfig,
    XGLMForCausalLM,
)

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.models.compatibility import check_network
from elongate.models.pretrained import Pretrained
from elongate.models.source import ModelSource
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

SIZES = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
BERT = BertConfig(**SIZES, max_position_embeddings=64, pad_token_id=None)
DISTILBERT = DistilBertConfig(
    vocab_size=258,
    dim=32,
    hidden_dim=48,
    n_layers=1,
    n_heads=4,
    max_position_embeddings=64,
    pad_token_id=None,
)
GPT2 = GPT2Config(vocab_size=258, n_positions=64, n_embd=32, n_layer=1, n_head=2)


def saved(network: PreTrainedModel, folder: Path) -> Path:
    network.save_pretrained(folder)
    ByteTokenizer().with_mask().save(folder)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return saved(BertForMaskedLM(BERT), tmp_path / "bert")


@pytest.mark.parametrize(
    ("network", "able"),
    [
        (lambda: BertForMaskedLM(BERT), "masked"),
        (lambda: BertForPreTraining(BERT), "masked"),
        (lambda: BertLMHeadModel(BertConfig(**BERT.to_dict() | {"is_decoder": True})), "causal"),
        (lambda: DistilBertForMaskedLM(DISTILBERT), "masked"),
        (lambda: GPT2LMHeadModel(GPT2), "causal"),
    ],
    ids=["masked", "pre-training", "decoder", "masked only", "causal"],
)
def test_a_checkpoint_is_opened_with_the_head_it_was_saved_with(network: Any, able: str, tmp_path: Path) -> None:
    network = network().eval()
    folder = saved(network, tmp_path / "checkpoint")
    model = Pretrained(source=str(folder)).build(258, seed=0)
    assert able in model.has
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        theirs = network(tokens)
        logits = theirs.prediction_logits if hasattr(theirs, "prediction_logits") else theirs.logits
        ours = model.logits(model.hidden(tokens))
    assert_close(ours, logits, rtol=0, atol=1e-5)


def test_a_checkpoint_that_names_no_head_is_opened_by_its_architecture(tmp_path: Path) -> None:
    folder = saved(DistilBertForMaskedLM(DISTILBERT), tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "masked" in Pretrained(source=str(folder)).build(258, seed=0).has


TINY: dict[str, Any] = {**SIZES, "max_position_embeddings": 64, "pad_token_id": 0}
READS_BOTH_SIDES: dict[str, Callable[[], PreTrainedModel]] = {
    "big_bird": lambda: BigBirdForMaskedLM(BigBirdConfig(**TINY, attention_type="original_full")),
    "deberta-v2": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**TINY)),
    "megatron-bert": lambda: MegatronBertForMaskedLM(MegatronBertConfig(**TINY)),
    "mpnet": lambda: MPNetForMaskedLM(MPNetConfig(**TINY | {"pad_token_id": 1})),
}


@pytest.mark.parametrize("kind", READS_BOTH_SIDES)
def test_a_model_whose_attention_states_no_direction_is_read_as_it_computes(kind: str, tmp_path: Path) -> None:
    """These attentions have no attribute `is_causal` and do not use the interface of transformers."""
    torch.manual_seed(0)
    network = READS_BOTH_SIDES[kind]().eval()
    model = Pretrained(source=str(saved(network, tmp_path / "checkpoint"))).build(258, seed=0)
    check_network(model)
    assert {"bidirectional", "masked"} <= model.has
    assert "causal" not in model.has
    tokens = torch.arange(2, 22)[None]
    with torch.no_grad():
        assert_close(model.logits(model.hidden(tokens)), network(tokens).logits, rtol=0, atol=1e-5)


READS_THE_MASK: dict[str, Callable[[], PreTrainedModel]] = {
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=258, hidden_size=32, n_layer=1, n_head=4)),
    "codegen": lambda: CodeGenForCausalLM(
        CodeGenConfig(vocab_size=258, n_embd=32, n_layer=1, n_head=4, n_positions=64, rotary_dim=4, bos_token_id=None, eos_token_id=None)
    ),
    "xglm": lambda: XGLMForCausalLM(
        XGLMConfig(vocab_size=258, d_model=32, ffn_dim=48, num_layers=1, attention_heads=4, max_position_embeddings=64)
    ),
}


@pytest.mark.parametrize("kind", READS_THE_MASK)
def test_a_causal_model_that_reads_its_direction_from_the_mask_keeps_its_mask(kind: str, tmp_path: Path) -> None:
    """Their attention is written without the interface, and without a mask it would see both sides."""
    torch.manual_seed(0)
    network = READS_THE_MASK[kind]().eval()
    model = Pretrained(source=str(saved(network, tmp_path / "checkpoint"))).build(258, seed=0)
    check_network(model)
    assert model.is_causal
    tokens = torch.arange(2, 22)[None]
    with torch.no_grad():
        assert_close(model.logits(model.hidden(tokens)), network(tokens).logits, rtol=0, atol=1e-5)


def config_without(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))


def without_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.0.mlp.c_fc.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "config": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"is damaged: .*; fetch or save the checkpoint again|cannot be opened: .*; name a folder written by",
    ),
    "weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
        r"is damaged: .*; fetch or save the checkpoint again",
    ),
    "a missing weight": (
        without_a_weight,
        r"is damaged: transformer\.h\.0\.mlp\.c_fc\.weight is missing or its shape differs .* \(1 such weights\)",
    ),
    "an unknown architecture": (
        lambda folder: config_without(folder, "model_type"),
        r"is not a causal or masked language model that transformers can open: .*; name a causal or masked checkpoint",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"cannot be opened: .*; name a folder written by save_pretrained",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    folder = saved(GPT2LMHeadModel(GPT2), tmp_path / "checkpoint")
    damage, message = DAMAGE[what]
    damage(folder)
    with pytest.raises(ConfigError, match=message) as refused:
        Pretrained(source=str(folder)).build(258, seed=0)
    assert str(refused.value).startswith(f"model.source={folder}: ")
    assert "\n" not in str(refused.value)


QUANTIZED: dict[str, tuple[dict[str, Any], str]] = {
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    "mxfp4": ({"quant_method": "mxfp4"}, "mxfp4"),
    "bitsandbytes": ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "gptq"),
    "one that transformers does not know": ({"quant_method": "new"}, "new"),
    "one without a name": ({"load_in_8bit": True}, "a method that config.json does not name"),
}


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("what", QUANTIZED)
def test_a_quantized_checkpoint_is_refused(what: str, key: str, tmp_path: Path) -> None:
    folder = saved(GPT2LMHeadModel(GPT2), tmp_path / "checkpoint")
    settings, method = QUANTIZED[what]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: settings}))
    (folder / "model.safetensors").unlink()  # refused before the weights are opened
    with pytest.raises(ConfigError) as refused:
        Pretrained(source=str(folder)).build(258, seed=0)
    rule = f"contains quantized weights ({method}), which cannot be trained or exported"
    remedy = "dequantize it and save it with save_pretrained, or name the repository of the unquantized weights"
    assert str(refused.value) == f"model.source={folder}: {rule}; {remedy}"


def test_a_quantized_part_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    config = Gemma3Config(text_config={"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(ConfigError, match=r"contains quantized weights \(awq\)"):
        ModelSource(str(tmp_path)).require_unquantized("model.source", config)


def test_a_folder_without_a_checkpoint_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"is not a checkpoint: it contains no config\.json; name a folder written by"):
        Pretrained(source=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"source=\./nowhere: there is no such folder; .* or a hub id"):
        Pretrained(source="./nowhere")
    with pytest.raises(ConfigError, match=r"^source: must be a hub id or a folder; use source=<folder>"):
        Pretrained(source="")


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = saved(GPT2LMHeadModel(GPT2), tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match="tokenizer: gives ids up to 258, and the checkpoint's embedding has 258 rows"):
        Pretrained(source=str(folder)).build(259, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["context=none"], "objective=causal: needs a model that reads from left to right, .*; use objective=masked"),
        (
            ["objective=masked", "context=yarn", "context.target_length=256"],
            "context/position=yarn: .*; use context/position=interpolate",
        ),
    ],
)
def test_a_run_refuses_what_a_masked_checkpoint_cannot_do(
    overrides: list[str],
    message: str,
    bert: Path,
    build_tiny: Callable[..., Any],
    text_folder: Path,
    tmp_path: Path,
) -> None:
    source = ["model=pretrained", f"model.source={bert}", "data=text", f"data.path={text_folder}"]
    with pytest.raises(ConfigError, match=message) as refused:
        run(build_tiny(*source, "context.target_length=64", *overrides), RunDirectory(tmp_path / "run"))
    assert "\n" not in str(refused.value)


def test_a_tokenizer_without_a_mask_is_refused(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path) -> None:
    folder = saved(BertForMaskedLM(BERT), tmp_path / "bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": config["eos_token"], "tokenizer_class": config["tokenizer_class"]})
    )
    source = ["model=pretrained", f"model.source={folder}", "data=text", f"data.path={text_folder}"]
    with pytest.raises(ConfigError, match="tokenizer=pretrained: has no mask token"):
        run(build_tiny(*source, "objective=masked", "context=interpolate"), RunDirectory(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_a_masked_checkpoint_is_measured_up_to_its_table_of_positions(bert: Path, text_folder: Path, tmp_path: Path) -> None:
    more = ["evaluation.curve.num_sequences=4", "data=text", f"data.path={text_folder}", f"data.cache={tmp_path}/cache"]
    within = evaluated(bert, tmp_path / "within", "evaluation=[curve]", *more)
    assert within["curve"]["length"] == 64  # its own length, since it reads no further
    assert all(2 < loss < 12 for loss in within["curve"]["table"]["after"]["loss"])

    more += ["evaluation=[curve,needle]", "evaluation.needle.num_samples=2", "context.target_length=128"]
    beyond = evaluated(bert, tmp_path / "beyond", *more)
    assert [loss is None for loss in beyond["curve"]["table"]["after"]["loss"]] == [False, False, True]
    assert beyond["needle"]["lengths"] == [64, 128]
    for measure in ("margin", "exact_match", "log_probability"):
        within_table, beyond_table = beyond["needle"]["after"][measure]
        assert None not in within_table
        assert beyond_table == [None] * 5
    assert (tmp_path / "beyond/report.html").exists()
