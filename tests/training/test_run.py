"""Tiny runs in this process: presets, and combinations of settings."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch
from tests.conftest import evaluated
from tests.training.conftest import Workshop
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

import elongate
from elongate.cli import conf_directory
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.training.progress import describe_steps

# alibi, which plain transformers cannot open, is in test_from_the_start.py.
PRESETS = sorted({path.stem for path in (conf_directory() / "context").glob("*.yaml")} - {"alibi"})
TABLES = {"interpolate", "tile"}
# tests/test_matrix.py runs, measures and exports every position and sampling.
ELSEWHERE = {path.stem for group in ("position", "sampling") for path in (conf_directory() / "context" / group).glob("*.yaml")}
HERE = {"yarn", "tile", "drope", "pose"}  # one of each kind


@pytest.mark.slow
@pytest.mark.parametrize("preset", [pytest.param(p, marks=pytest.mark.grid if p in ELSEWHERE - HERE else ()) for p in PRESETS])
def test_every_preset_trains_measures_and_exports(preset: str, start: Workshop) -> None:
    quick = ["context.position.search.population=2", "context.position.search.parents=2", "context.position.search.iterations=1"]
    model = "gpt2" if preset in TABLES else "gpt"
    words = [f"model={model}", f"context={preset}", "steps=4", *(quick if preset == "longrope" else [])]
    target = 40 if preset == "string" else 128  # string reaches below twice the original length
    words += [f"context.target_length={target}"] if preset == "string" else []
    directory, results = start(preset, *words)
    assert json.loads(directory.results.read_text()) == results
    strategy, lines = results["strategy"], directory.read_metrics()
    assert strategy["context"] == preset
    proof = strategy["proof"]
    assert (proof["table"]["row_error"] if preset in TABLES else proof["frequency_error"]) < 1e-5
    assert proof["kernels"]["active"] == "none"
    assert results["budget"]["steps"] == 4
    assert sum(stage["steps"] for stage in results["stages"]) == 4
    assert results["budget"]["tokens"] == 4 * (256 // target * target) == sum(stage["tokens"] for stage in results["stages"])
    acts_untrained = strategy["position"] != "none" or strategy["evaluation_attention"] != "full"
    rows = {"before", "after"} | ({"untuned"} if acts_untrained else set())
    assert set(results["curve"]["table"]) == {"edges"} | rows
    assert [line["step"] for line in lines] == list(range(1, 7))
    reaches = [32, 32, *{"progressive": [64, 64, 128, 128], "drope": 4 * [32]}.get(preset, 4 * [target])]
    assert [line["length"] for line in lines] == (reaches if strategy["sampling"] is None else [32] * 6)
    if strategy["sampling"] is None:
        assert [line["reach"] for line in lines] == reaches
    else:
        assert 32 < results["stages"][0]["reach"] <= 128
    opened = AutoModelForCausalLM.from_pretrained(directory.model)
    # The length that transformers assumes the model was trained on.
    assert opened.config.max_position_embeddings == (32 if preset == "dynamic_ntk" else target)


@pytest.mark.slow
def test_a_pretrained_model_is_extended_with_its_own_tokenizer_and_length(start: Workshop) -> None:
    first, _ = start("source", "context=none", "context.target_length=32", "batch_tokens=64", "evaluation=[]")
    second, results = start("pretrained", "model=pretrained", f"model.source={first.model}", "context=ntk", "evaluation=[]")
    assert results["strategy"]["original_length"] == 32
    assert results["strategy"]["curriculum"] == "extend"
    assert results["budget"]["base"] is None
    assert [line["step"] for line in second.read_metrics()] == [1, 2, 3]


@pytest.mark.slow
def test_runs_with_isolated_documents_bf16_accumulation_and_every_memory_plan_finish(start: Workshop) -> None:
    more = ["evaluation=[]", "data.isolate_documents=true"]
    _, whole = start("whole", *more)
    _, parts = start("parts", *more, "memory.micro_batch_tokens=1")
    assert parts["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=1e-5)
    assert parts["data"] == whole["data"]
    for word, options in {"checkpoint": [], "stream": ["memory.chunk_length=48"]}.items():
        _, planned = start(word, *more, f"memory={word}", *options)
        assert planned["memory"]["plan"] == word
        assert planned["memory"]["exact"]
        assert planned["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=1e-5)
    directory, half = start("half", *more, "precision=bf16")
    assert half["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=2e-2)
    weights = AutoModelForCausalLM.from_pretrained(directory.model).parameters()
    assert {p.dtype for p in weights} == {torch.float32}


@pytest.mark.slow
def test_a_base_whose_weights_were_altered_is_rebuilt_from_its_checkpoint(start: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    first, sound = start("first", "evaluation=[]", "seed=5")
    weights = Path(sound["budget"]["base"]["path"]) / "model/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    second, again = start("second", "evaluation=[]", "seed=5")
    assert "weights do not match the recorded hash; rebuilding them from the checkpoint" in capfd.readouterr().err
    assert weights.read_bytes() == whole
    assert again["stages"] == sound["stages"]
    assert (second.model / "model.safetensors").read_bytes() == (first.model / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_is_evaluated_with_the_attention_it_was_measured_with(start: Workshop, tmp_path: Path) -> None:
    first, results = start("windowed", "context=window", "context.attention.window_length=8")
    again = evaluated(first.path, tmp_path / "again")
    assert again["attention"]["word"] == "window"
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    full = evaluated(first.path, tmp_path / "full", "context/attention=full")
    assert full["curve"]["table"]["after"] != results["curve"]["table"]["after"]


@pytest.mark.slow
def test_longlora_trains_on_groups_and_is_measured_with_full_attention(start: Workshop) -> None:
    _, results = start("longlora-run", "experiment=longlora", "evaluation=[]")
    strategy = results["strategy"]
    assert (strategy["position"], strategy["attention"], strategy["evaluation_attention"]) == ("pi", "shifted", "full")
    assert strategy["tuning"] == "lora_plus"
    assert strategy["proof"]["attention"]["pairs_ratio"] < 0.3
    assert results["budget"]["trained_parameters"] < results["budget"]["parameters"]


@pytest.mark.slow
def test_all_steps_are_described_with_rates_and_lengths(start: Workshop) -> None:
    rate = "optimizer.lr=0.001"
    assert describe_steps(start.job(rate)) == "5 steps: base 2 at lr 0.004, length 32; extension 3 at lr 0.001, length 128"
    progressive = describe_steps(start.job(rate, "context=progressive", "steps=4"))
    assert progressive == "6 steps: base 2 at lr 0.004, length 32; extension 4 at lr 0.001, lengths 64, 128"
    assert describe_steps(start.job(rate, "context=pose")).endswith("extension 3 at lr 0.001, length 32, positions below 128")
    assert describe_steps(start.job(rate, "context/curriculum=fixed", "steps=1")) == "1 step: 1 at lr 0.001, length 128"
    (start.folder / "checkpoint").mkdir(exist_ok=True)
    (start.folder / "checkpoint/config.json").write_text("{}")
    opened_later = start.job("model=pretrained", "model.source=checkpoint", "tokenizer=byte", rate)
    assert describe_steps(opened_later) == "3 steps: 3 at lr 0.001, length up to 128"


@pytest.mark.slow
def test_the_time_left_includes_the_evaluation(start: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    _, results = start("timed", "evaluation=[curve,needle]", "evaluation.needle.lengths=[64]", "seed=6")
    lines = capfd.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith(("base 32  step", "extend 128  step", "measuring "))]
    assert shown[-1].startswith("measuring needle, extended but not trained  about ")
    assert all(line.endswith(" left") and "about 0 s" not in line for line in shown)
    assert len([line for line in shown if line.startswith("measuring")]) == 6
    assert results["provenance"]["command"] == ""
    assert results["provenance"]["versions"]["elongate"] == elongate.__version__
    assert results["provenance"]["versions"]["python"] == platform.python_version()
    assert results["provenance"]["device"] == f"cpu ({torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)})"
    assert results["provenance"]["date"].endswith("+00:00")


@pytest.mark.slow
@pytest.mark.parametrize("asks", [True, False])
def test_a_run_says_that_the_auxiliary_loss_of_the_router_is_not_in_its_loss(
    asks: bool, start: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "num_key_value_heads": 2}
    config = MixtralConfig(**sizes, **experts, max_position_embeddings=128, output_router_logits=asks, router_aux_loss_coef=0.02)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "experts")
    ByteTokenizer().save(tmp_path / "experts")
    source = ["model=pretrained", f"model.source={tmp_path}/experts", "context=none", "context.target_length=128"]
    start(f"router-{asks}", *source, "steps=1", "evaluation=[]")
    asked = "(output_router_logits=true, router_aux_loss_coef=0.02)"
    line = f"warning: the auxiliary loss of the router, which the checkpoint asks for {asked}, is not part of the training loss\n"
    assert capsys.readouterr().err.count(line) == asks


@pytest.mark.slow
@pytest.mark.parametrize("bound", [9e3, 2e4])
def test_a_run_warns_of_a_theta_below_the_known_bound(
    bound: float, start: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("elongate.models.theta_bound._BOUNDS", {128: bound})
    start(f"theta-{bound:g}", "context=none", "steps=1", "evaluation=[]")
    assert ("warning: theta=10000 is below 20000, the least known to work at 128 tokens" in capsys.readouterr().err) == (bound > 1e4)
