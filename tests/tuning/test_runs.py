"""Whole runs with a tuning: what is trained, exported, resumed and refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interrupts import SignalAfter
from transformers import AutoModelForCausalLM

from elongate.cli import conf_directory
from elongate.errors import ConfigError, RunError, Stopped
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

WORDS = sorted(path.stem for path in (conf_directory() / "tuning").glob("*.yaml"))
OPTIMIZERS = sorted(path.stem for path in (conf_directory() / "optimizer").glob("*.yaml"))
SHORT = ("context.curriculum.base.steps=2", "data=text", "training.checkpoint_steps=1")
SIDES = 2 * (64 + 48 + 48 + 64)  # rows and columns of the projections of two layers


@pytest.fixture
def job(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: build_tiny(*SHORT, f"data.path={text_folder}", *overrides)


def started(job: Any, name: str) -> tuple[RunDirectory, dict[str, Any]]:
    directory = RunDirectory(Path(name).absolute())
    directory.path.mkdir(exist_ok=True)
    return directory, run(job, directory)


def stopped_after(looks: int, job: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a run says that a signal stops."""
    with monkeypatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(looks))
        with pytest.raises(Stopped) as stopped:
            started(job, name)
    return str(stopped.value)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("word", WORDS)
def test_every_tuning_shares_the_base_and_exports_plain_weights(word: str, job: Callable[..., Any], tmp_path: Path) -> None:
    directory, results = started(job(f"tuning={word}"), "run")
    (base,) = tmp_path.glob("runs/bases/*-*")
    started(job("evaluation=[]"), "full")
    assert list(tmp_path.glob("runs/bases/*-*")) == [base]
    assert results["strategy"]["tuning"] == word
    opened = AutoModelForCausalLM.from_pretrained(directory.model)
    assert not any("lora" in name for name, _ in opened.named_parameters())
    before, after = weights(base / "model"), weights(directory.model)
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    attention = {name for name in before if "self_attn" in name}
    tables = {name for name in before if "norm" in name or "embed" in name}
    assert changed == {"full": set(before), "lora": attention, "lora_plus": attention | tables}[word]
    budget = results["budget"]
    added = {"full": 0, "lora": 8 * SIDES, "lora_plus": 8 * SIDES}[word]
    whole = {"full": sum(p.numel() for p in opened.parameters()), "lora": 0, "lora_plus": 257 * 32 + 5 * 32}[word]
    assert budget["trained_parameters"] == added + whole
    assert budget["parameters"] == added + sum(p.numel() for p in opened.parameters())
    # Two moments of AdamW and a count of steps a parameter.
    assert 8 * (added + whole) <= budget["optimizer_state_bytes"] <= 8 * (added + whole) + 4 * 200
    targets = ["self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"]
    expected = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": targets, "layers": 8}
    assert results["strategy"]["adapters"] == ({} if word == "full" else expected)
    assert {"before", "untuned", "after"} <= set(results["curve"]["table"])


def test_the_rows_before_and_untuned_do_not_depend_on_the_tuning(job: Callable[..., Any]) -> None:
    tables = {word: started(job(f"tuning={word}"), word)[1]["curve"]["table"] for word in ("full", "lora")}
    for row in ("before", "untuned"):
        assert tables["full"][row] == tables["lora"][row]
    assert tables["full"]["after"] != tables["lora"]["after"]


def test_a_checkpoint_holds_what_is_trained_and_no_more(job: Callable[..., Any]) -> None:
    directory, _ = started(job("tuning=lora", "evaluation=[]"), "run")
    tensors = load_file(directory.checkpoints / "step-000005/tensors.safetensors")
    kept = {name: value for name, value in tensors.items() if name.startswith("model.")}
    assert sum(value.numel() for value in kept.values()) == 8 * SIDES
    assert all("lora_A" in name or "lora_B" in name for name in kept)
    assert all(value.numel() == 1 for name, value in tensors.items() if name.startswith("frozen."))
    assert sum(value.numel() for name, value in tensors.items() if name.startswith("optimizer.")) <= 16 * SIDES + 100


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("word", WORDS)
def test_optimizers_hold_what_is_trained_once_and_nothing_else(word: str, optimizer: str, job: Callable[..., Any]) -> None:
    made = job(f"tuning={word}", f"optimizer={optimizer}")
    model = made.model.build(257, seed=0)
    made.tuning.apply(model, seed=0)
    optimizers = made.optimizer.build(model.network)
    held = Counter(id(p) for one in optimizers for group in one.param_groups for p in group["params"])
    assert held == Counter(id(p) for p in model.parameters())
    if optimizer == "muon" and word != "full":
        assert {id(p) for p in optimizers[0].param_groups[0]["params"]} == {
            id(p) for n, p in model.network.named_parameters() if "lora" in n
        }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("word", ["lora", "lora_plus"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    word: str, optimizer: str, job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(f"tuning={word}", f"optimizer={optimizer}", "tuning.dropout=0.1", "evaluation.needle.lengths=[64]", "steps=4")
    whole, expected = started(made, "undisturbed")
    stops = []
    # From the first step of the extension (the base is shared and done) to the middle of the evaluation.
    for looks in (0, 1, 3, 6):
        stops.append(stopped_after(looks, made, "disturbed", monkeypatch))
    assert "at step" in stops[0]
    assert "evaluation" in stops[-1]
    directory, results = started(made, "disturbed")
    assert (directory.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    assert (results["curve"], results["needle"]) == (expected["curve"], expected["needle"])
    assert [line["loss"] for line in directory.read_metrics()] == [line["loss"] for line in whole.read_metrics()]


def test_an_exported_run_that_was_not_measured_measures_the_merged_weights(job: Callable[..., Any]) -> None:
    directory, expected = started(job("tuning=lora_plus"), "run")
    directory.write_results({})
    exported = (directory.model / "model.safetensors").read_bytes()
    assert started(job("tuning=lora_plus"), "run")[1]["curve"] == expected["curve"]
    assert (directory.model / "model.safetensors").read_bytes() == exported


def test_checkpoints_are_refused_beside_other_frozen_weights(
    job: Callable[..., Any], build_tiny: Callable[..., Any], text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = started(job("context=none", "context.target_length=32", "evaluation=[]"), "source")
    made = build_tiny("tuning=lora", "model=pretrained", f"model.source={source.model}", *SHORT[1:], f"data.path={text_folder}")
    stopped_after(0, made, "run", monkeypatch)
    file = source.model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"was trained on other weights .*\(model.layers.1.mlp.up_proj.weight differs\).* overwrite=true"):
        started(made, "run")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # what peft asks of transformers
def test_a_model_with_an_adapter_beside_it_is_refused(job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, get_peft_model

    source, _ = started(job("context=none", "context.target_length=32", "evaluation=[]"), "source")
    network = AutoModelForCausalLM.from_pretrained(source.model)
    get_peft_model(network, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(source.model)
    with pytest.raises(ConfigError, match="contains an adapter, which is not a whole model; merge it into its model"):
        Pretrained(source=str(source.model))
    # As it comes from the hub, where files are not looked at before.
    monkeypatch.setattr(Pretrained, "__post_init__", lambda self: None)
    with pytest.raises(ConfigError, match="contains an adapter"):
        Pretrained(source=str(source.model)).build(257, seed=0)


def test_an_unknown_target_is_told_before_the_base_is_trained(job: Callable[..., Any], tmp_path: Path) -> None:
    made = job("tuning=lora", "tuning.targets=[q_proj,v_prj]")
    with pytest.raises(
        ConfigError, match=r"^tuning\.targets=v_prj: is not the end of the name of a linear layer .* did you mean v_proj\?$"
    ):
        started(made, "run")
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "run").iterdir())


def test_bf16_gives_a_sound_run_with_adapters_in_fp32(job: Callable[..., Any]) -> None:
    _, full = started(job("tuning=lora", "evaluation=[]"), "full")
    directory, half = started(job("tuning=lora", "evaluation=[]", "precision=bf16"), "half")
    assert half["stages"][0]["loss"] == pytest.approx(full["stages"][0]["loss"], abs=2e-2)
    tensors = load_file(directory.checkpoints / "step-000005/tensors.safetensors")
    assert {value.dtype for name, value in tensors.items() if name.startswith("model.")} == {torch.float32}
