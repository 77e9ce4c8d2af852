"""Whole runs, tiny, in this process: every preset, and the ways that a run can be composed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import evaluated
from transformers import AutoModelForCausalLM

from elongate.cli import conf_directory

# What plain transformers cannot open has tests of its own: tests/training/test_from_the_start.py.
PRESETS = sorted({path.stem for path in (conf_directory() / "context").glob("*.yaml")} - {"alibi"})
OF_TABLES = {"interpolate", "tile"}
# Presets of a position alone are run, measured and exported by tests/test_matrix.py too; two of them stay here.
POSITIONS = {path.stem for path in (conf_directory() / "context/position").glob("*.yaml")} - {"yarn", "tile", "drope"}


@pytest.mark.parametrize("preset", [pytest.param(p, marks=pytest.mark.grid if p in POSITIONS else ()) for p in PRESETS])
def test_every_preset_trains_measures_and_exports(preset: str, ran: Callable[..., Any]) -> None:
    quick = ["context.position.search.population=2", "context.position.search.parents=2", "context.position.search.iterations=1"]
    more = quick if preset == "longrope" else []
    model = "gpt2" if preset in OF_TABLES else "gpt"
    directory, results = ran("run", f"model={model}", f"context={preset}", "context.curriculum.base.steps=2", "steps=4", *more)
    assert json.loads(directory.results.read_text()) == results
    assert results["strategy"]["context"] == preset
    proof = results["strategy"]["proof"]
    assert (proof["table"]["row_error"] if preset in OF_TABLES else proof["frequency_error"]) < 1e-5
    assert results["budget"]["steps"] == 4
    assert sum(stage["steps"] for stage in results["stages"]) == 4
    assert results["budget"]["tokens"] == 4 * 256 == sum(stage["tokens"] for stage in results["stages"])
    strategy = results["strategy"]
    acts_untrained = strategy["position"] != "none" or strategy["evaluation_attention"] != "full"
    rows = {"before", "after"} | ({"untuned"} if acts_untrained else set())
    assert set(results["curve"]["table"]) == {"edges"} | rows
    assert rows <= set(results["needle"])
    lines = directory.read_metrics()
    assert [line["step"] for line in lines] == list(range(1, 7))
    reaches = [32, 32, *{"progressive": [64, 64, 128, 128], "drope": 4 * [32]}.get(preset, 4 * [128])]
    assert [line["length"] for line in lines] == (reaches if strategy["sampling"] is None else [32] * 6)
    if strategy["sampling"] is None:
        assert [line["reach"] for line in lines] == reaches
    else:
        assert 32 < results["stages"][0]["reach"] <= 128
    opened = AutoModelForCausalLM.from_pretrained(directory.model)
    # transformers takes it for the length that was trained.
    assert opened.config.max_position_embeddings == (32 if preset == "dynamic_ntk" else 128)


def test_a_pretrained_model_is_extended_with_its_own_tokenizer_and_length(ran: Callable[..., Any]) -> None:
    first, _ = ran("first", "context.curriculum.base.steps=2", "context=none", "context.target_length=32", "batch_tokens=64")
    second, results = ran("second", "model=pretrained", f"model.source={first.model}", "context=ntk")
    assert results["strategy"]["original_length"] == 32
    assert results["strategy"]["curriculum"] == "extend"
    assert results["budget"]["base"] is None
    assert [line["step"] for line in second.read_metrics()] == [1, 2, 3]


def test_isolated_documents_bf16_accumulation_and_every_memory_give_a_sound_run(ran: Callable[..., Any]) -> None:
    more = ["context.curriculum.base.steps=2", "evaluation=[]", "data.isolate_documents=true"]
    _, whole = ran("whole", *more)
    _, parts = ran("parts", *more, "memory.micro_batch_tokens=1")
    assert parts["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=1e-5)
    assert parts["data"] == whole["data"]
    for plan in (["memory=checkpoint"], ["memory=stream", "memory.chunk_length=48"]):
        _, planned = ran(plan[0].partition("=")[2], *more, *plan)
        assert planned["memory"]["plan"] == plan[0].partition("=")[2]
        assert planned["memory"]["exact"]
        assert planned["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=1e-5)
    _, half = ran("half", *more, "precision=bf16")
    assert half["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=2e-2)


def test_weights_are_kept_in_fp32_under_bf16(ran: Callable[..., Any]) -> None:
    directory, _ = ran("run", "precision=bf16", "evaluation=[]", "context.curriculum.base.steps=2")
    opened = AutoModelForCausalLM.from_pretrained(directory.model)
    assert {p.dtype for p in opened.parameters()} == {torch.float32}


def test_a_base_whose_weights_were_altered_is_made_again_from_its_checkpoint(
    ran: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    more = ["context.curriculum.base.steps=2", "evaluation=[]"]
    _, sound = ran("first", *more)
    weights = Path(sound["budget"]["base"]["path"]) / "model/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    directory, again = ran("second", *more)
    assert "weights do not match the recorded hash" in capfd.readouterr().err
    assert weights.read_bytes() == whole
    assert again["stages"] == sound["stages"]
    assert (directory.model / "model.safetensors").read_bytes() == (directory.path.parent / "first/model/model.safetensors").read_bytes()


def test_a_run_is_evaluated_with_the_attention_it_was_measured_with(ran: Callable[..., Any], tmp_path: Path) -> None:
    small = ["context.curriculum.base.steps=2", "context.attention.window_length=8"]
    first, results = ran("first", "context=window", *small)

    again = evaluated(first.path, tmp_path / "again")
    assert again["attention"]["word"] == "window"
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    full = evaluated(first.path, tmp_path / "full", "context/attention=full")
    assert full["curve"]["table"]["after"] != results["curve"]["table"]["after"]


def test_longlora_trains_on_groups_and_is_measured_with_full_attention(ran: Callable[..., Any]) -> None:
    _, results = ran("run", "experiment=longlora", "context.curriculum.base.steps=2", "evaluation=[]")
    strategy = results["strategy"]
    assert (strategy["position"], strategy["attention"], strategy["evaluation_attention"]) == ("pi", "shifted", "full")
    assert strategy["tuning"] == "lora_plus"
    assert strategy["proof"]["attention"]["pairs_ratio"] < 0.3
    assert results["budget"]["trained_parameters"] < results["budget"]["parameters"]
