"""`memory=stream`: models and settings that it refuses, its files, and its first pass."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exotic import exotic
from tests.networks import network
from torch import nn

from elongate.errors import ConfigError, RunError, inside
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.stream import Stream
from elongate.models.compatibility import check_network
from elongate.models.language_model import LanguageModel
from elongate.models.probes import run_all
from elongate.objectives.objective import Example


@pytest.mark.parametrize("chunk_length", [0, -3])
def test_a_chunk_has_at_least_one_token(chunk_length: int) -> None:
    with pytest.raises(ConfigError) as caught, inside("memory"):
        Stream(chunk_length=chunk_length)
    assert str(caught.value) == f"memory.chunk_length={chunk_length}: must be at least 1; use memory.chunk_length=null"


@pytest.mark.slow
def test_a_sequence_shorter_than_a_chunk_is_one_chunk(build_tiny: Callable[..., Any]) -> None:
    """test_exactness.py checks its gradient ("stream longer")."""
    assert build_tiny("memory=stream", "memory.chunk_length=129").memory.chunk_length == 129
    assert Stream(chunk_length=36).helps(36)
    assert not Stream(chunk_length=37).helps(36)


@pytest.mark.slow
def test_an_error_of_the_command_line_has_the_whole_key(build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"^memory\.chunk_length="):
        build_tiny("memory=stream", "memory.chunk_length=0")


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_a_bidirectional_model_is_refused(kind: str) -> None:
    model = LanguageModel(network(kind, "elongate"), kind)
    rule = f"memory=stream: cannot train model={kind}: what a token sees on its right is not computed yet when its chunk is"
    with pytest.raises(ConfigError) as caught:
        Stream().prepare(model, 36)
    assert str(caught.value) == f"{rule}; use memory=checkpoint"


class Neighbours(nn.Module):
    """A linear layer that adds its output for the previous token, as convolutions and recurrences do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + nn.functional.pad(self.layer(x), (0, 0, 1, 0))[:, :-1]


def test_a_model_whose_tokens_interact_outside_attention_is_refused() -> None:
    built = network("llama-2", "elongate")
    built.model.layers[1].mlp.up_proj = Neighbours(built.model.layers[1].mlp.up_proj)
    with pytest.raises(ConfigError, match="memory=stream: cannot train a llama: its tokens interact outside its attention; use "):
        Stream().prepare(LanguageModel(built, "llama"), 36)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_a_network_in_bfloat16_is_streamed(kind: str) -> None:
    model = LanguageModel(exotic(kind, dtype=torch.bfloat16), kind)
    check_network(model)
    Stream(chunk_length=12).prepare(model, 36)
    step(model)


def test_in_bfloat16_too_a_model_whose_tokens_interact_outside_attention_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot train a lfm2: its tokens interact outside its attention"):
        Stream().prepare(LanguageModel(exotic("lfm2", dtype=torch.bfloat16), "lfm2"), 32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llama-1", "llama-2", "qwen3", "gpt2", "gpt_neox", "mistral", "gemma3"])
def test_preparing_a_causal_model_does_not_change_it(kind: str, precision: str) -> None:
    model = LanguageModel(network(kind, "elongate", torch.float32).train(), kind)
    model.precision = precision
    Stream().prepare(model, 36)
    assert model.network.training
    assert model.precision == precision
    assert all(p.grad is None for p in model.network.parameters())


@pytest.mark.parametrize("fields", [{"micro_batch_tokens": 0}, {"mlp_chunk_length": 0}], ids=str)
def test_checkpoint_refuses_pieces_of_zero_tokens(fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="=0: must be at least 1; use "):
        Checkpoint(**fields)


def step(model: LanguageModel, length: int = 36) -> None:
    tokens = torch.arange(length + 1)[None] % model.network.config.vocab_size
    plan = Stream(chunk_length=7, on_disk=True).prepare(model, length)
    plan.backward(model, Example(tokens[:, :-1], tokens[:, 1:], torch.ones(1, length, dtype=torch.bool), None))


def test_files_are_in_the_temporary_folder_and_removed_after_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, sizes = LanguageModel(network("llama-2", "elongate"), "llama"), []

    def stopped(*_: object) -> None:
        sizes.append({file.stat().st_size for file in tmp_path.glob("*/*")})
        if len(sizes) == 2:
            raise KeyboardInterrupt

    model.network.get_output_embeddings().weight.register_hook(stopped)
    with pytest.raises(KeyboardInterrupt):
        step(model)
    assert sizes[0]
    assert all(size % 36 == 0 for size in sizes[0])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(RunError) as caught:
        step(LanguageModel(network("llama-2", "elongate"), "llama"))
    assert re.fullmatch(
        r"memory.on_disk=true: [\d,]+ more bytes are needed in \S+, 100 are free; set TMPDIR to a larger disk", str(caught.value)
    )
    assert list(tmp_path.iterdir()) == []


def test_the_first_pass_computes_only_keys_and_values_in_the_last_layer() -> None:
    model = LanguageModel(network("llama-2", "elongate"), "llama")
    layers, calls = model.network.base_model.layers, Counter[int]()
    for number, layer in enumerate(layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: calls.update([number]))
    tokens = torch.arange(41)[None] % 50
    example = Example(tokens[:, :-1], tokens[:, 1:], torch.ones(1, 40, dtype=torch.bool), None)
    Stream(chunk_length=8).prepare(model, 40)
    run_all(model)
    calls.clear()
    Stream(chunk_length=8).backward(model, example)
    # There are five chunks, and the last one is run only once. The first chunk detects which layer is the last.
    assert [calls[number] for number in range(len(layers))] == [9] * (len(layers) - 1) + [6]
