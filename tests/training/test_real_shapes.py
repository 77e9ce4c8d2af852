"""Tiny checkpoints in the form of published ones, extended four-fold, measured, reopened and measured again, over ten seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import evaluated
from tests.evaluation.tokenizer_families import END, digits
from tests.training.conftest import Workshop
from tokenizers import processors
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from elongate.models.pretrained import Pretrained

PRETRAINED, SCALED, TARGET = 32, 64, 256  # tokens: at first, of the checkpoint, and after the extension
VOCAB = 1024
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": SCALED,
    "initializer_range": 0.2,
    "pad_token_id": None,
}


def llama_3_2() -> Any:
    parameters = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled = parameters | {"original_max_position_embeddings": PRETRAINED}
    return LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=scaled, tie_word_embeddings=True))


def qwen2_5() -> Any:
    parameters = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0, "original_max_position_embeddings": PRETRAINED}
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, rope_parameters=parameters))


def phi_3() -> Any:
    """As published, without the key `factor`."""
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 1.5, 2.0, 4.0]}
    parameters = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    return Phi3ForCausalLM(Phi3Config(**SHAPE, original_max_position_embeddings=PRETRAINED, rope_parameters=parameters))


# What is built, and a strategy that its configuration can express.
SHAPES: dict[str, tuple[Callable[[], Any] | None, str]] = {
    "llama 3.2": (llama_3_2, "yarn"),
    "qwen 2.5": (qwen2_5, "yarn"),
    "phi 3": (phi_3, "ntk"),
    "our own export": (None, "yarn"),
}


@cache
def bos_tokenizer() -> dict[str, str]:
    """Files of a tokenizer with tokens of three digits that begins every text with BOS, as Llama 3 does."""
    built = digits(3)()
    built.add_special_tokens(["<|begin_of_text|>"])
    identity = built.token_to_id("<|begin_of_text|>")
    template = {"single": "<|begin_of_text|> $A", "special_tokens": [("<|begin_of_text|>", identity)]}
    built.post_processor = processors.TemplateProcessing(**template)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": "<|begin_of_text|>", "model_max_length": SCALED}
    return {"tokenizer.json": built.to_str(), "tokenizer_config.json": json.dumps(config)}


def save_tokenizer(shape: str, folder: Path) -> None:
    if shape == "qwen 2.5":  # transformers opens it with a class that splits text in its own way
        model = json.loads(digits(1)().to_str())["model"]
        Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]]).save_pretrained(folder)
        return
    for name, content in bos_tokenizer().items():
        (folder / name).write_text(content)


def checkpoint(shape: str, seed: int, start: Workshop) -> Path:
    build, _ = SHAPES[shape]
    if build is None:
        directory, _ = start(f"first {seed}", f"seed={seed}", "context.target_length=64")
        return directory.model
    folder = start.folder / f"{shape} {seed}"
    torch.manual_seed(seed)
    build().save_pretrained(folder)
    save_tokenizer(shape, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.grid) for seed in range(1, 11))])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_is_extended_measured_reopened_and_measured_again(shape: str, seed: int, start: Workshop, tmp_path: Path) -> None:
    source = checkpoint(shape, seed, start)
    words = ["model=pretrained", f"model.source={source}", f"seed={seed}", f"context={SHAPES[shape][1]}", f"context.target_length={TARGET}"]
    # In the grid, with the default lengths and numbers of samples.
    evaluation = ["evaluation=[needle,curve]"] if seed else ["evaluation=[curve,needle]"]
    directory, results = start(f"{shape} extended {seed}", *words, *evaluation)

    assert results["finished"]
    again = evaluated(directory.path, tmp_path / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    assert again["needle"]["after"] == results["needle"]["after"]

    plain = AutoModelForCausalLM.from_pretrained(directory.model)
    opened = Pretrained(source=str(directory.model)).build(plain.config.vocab_size, seed=0)
    reader = AutoTokenizer.from_pretrained(directory.model)
    ids = torch.tensor([reader("the number 123 of the key is 45678. " * 40)["input_ids"][:TARGET]])
    assert ids.shape[1] == TARGET
    with torch.no_grad():
        assert_close(opened.logits(opened.hidden(ids)), plain(ids).logits, rtol=0, atol=1e-5)
    assert plain.config.max_position_embeddings == TARGET
