"""Whole runs with a tuning: what is trained, exported, resumed and refused."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from tests.conftest import TINY, TINY_MODEL, composed, leave_figures_empty
from tests.interrupts import SignalAfter
from tests.models.small import gpt
from transformers import AutoModelForCausalLM

from elongate.build import build_job
from elongate.cli import conf_directory
from elongate.config import build
from elongate.errors import ConfigError, RunError, Stopped
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

WORDS = sorted(path.stem for path in (conf_directory() / "tuning").glob("*.yaml"))
OPTIMIZERS = sorted(path.stem for path in (conf_directory() / "optimizer").glob("*.yaml"))
SIDES = 2 * (64 + 48 + 48 + 64)  # rows and columns of the projections of two layers
Finished = dict[str, tuple[RunDirectory, dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve documents, in which all runs share one base."""
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "text").mkdir()
    for i in range(12):
        lines = "".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(120))
        (folder / f"text/{i:02d}.txt").write_text(lines)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _empty_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        leave_figures_empty(patched)
        yield


@pytest.fixture(scope="module")
def job(folder: Path) -> Callable[..., Any]:
    shared = ["data=text", f"data.path={folder}/text", f"data.cache={folder}/cache", "training.checkpoint_steps=1"]
    shared += ["context.curriculum.base.steps=2", f"context.curriculum.base.directory={folder}/bases"]

    def job(*overrides: str) -> Any:
        model = [] if "model=pretrained" in overrides else TINY_MODEL
        # Other evaluations and their pictures take most of the time of a tiny run.
        curve = [] if "evaluation=[]" in overrides else ["evaluation=[curve]", "evaluation.curve.num_sequences=2"]
        return build_job(*composed(*TINY, *model, *curve, *shared, *overrides))

    return job


def started(job: Any, path: Path) -> tuple[RunDirectory, dict[str, Any]]:
    directory = RunDirectory(path)
    directory.path.mkdir(exist_ok=True)
    return directory, run(job, directory)


def stopped_after(looks: int, job: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a run that a signal stops."""
    with monkeypatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(looks))
        with pytest.raises(Stopped) as stopped:
            started(job, path)
    return str(stopped.value)


@pytest.fixture(scope="module")
def finished(job: Callable[..., Any], folder: Path) -> Finished:
    """A finished run of every tuning. Tests copy what they change."""
    return {word: started(job(f"tuning={word}"), folder / word) for word in WORDS}


@pytest.fixture
def source(finished: Finished, tmp_path: Path) -> Path:
    """A copy of an exported model."""
    return Path(shutil.copytree(finished["full"][0].model, tmp_path / "source"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_every_tuning_shares_the_base_and_exports_plain_weights(word: str, finished: Finished, folder: Path) -> None:
    directory, results = finished[word]
    (base,) = folder.glob("bases/*-*")
    assert results["strategy"]["tuning"] == word
    opened = AutoModelForCausalLM.from_pretrained(directory.model)
    assert not any("lora" in name for name, _ in opened.named_parameters())
    before, after = weights(base / "model"), weights(directory.model)
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    attention = {name for name in before if "self_attn" in name}
    tables = {name for name in before if "norm" in name or "embed" in name}
    assert changed == {"full": set(before), "lora": attention, "lora_plus": attention | tables}[word]
    budget, total = results["budget"], sum(p.numel() for p in opened.parameters())
    added = {"full": 0, "lora": 8 * SIDES, "lora_plus": 8 * SIDES}[word]
    whole = {"full": total, "lora": 0, "lora_plus": 257 * 32 + 5 * 32}[word]
    assert budget["trained_parameters"] == added + whole
    assert budget["parameters"] == added + total
    # AdamW has two moments per parameter and a step count per tensor.
    assert 8 * (added + whole) <= budget["optimizer_state_bytes"] <= 8 * (added + whole) + 4 * 200
    targets = ["self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"]
    expected = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": targets, "layers": 8}
    assert results["strategy"]["adapters"] == ({} if word == "full" else expected)
    assert {"before", "untuned", "after"} <= set(results["curve"]["table"])


@pytest.mark.slow
def test_the_rows_before_and_untuned_do_not_depend_on_the_tuning(finished: Finished) -> None:
    tables = {word: results["curve"]["table"] for word, (_, results) in finished.items()}
    for word in WORDS:
        for row in ("before", "untuned"):
            assert tables[word][row] == tables["full"][row]
    assert tables["full"]["after"] != tables["lora"]["after"]


@pytest.mark.slow
def test_a_checkpoint_contains_only_what_is_trained(finished: Finished) -> None:
    directory, _ = finished["lora"]
    tensors = load_file(directory.checkpoints / "step-000005/tensors.safetensors")
    model = {name: value for name, value in tensors.items() if name.startswith("model.")}
    assert sum(value.numel() for value in model.values()) == 8 * SIDES
    assert all("lora_A" in name or "lora_B" in name for name in model)
    assert all(value.numel() == 1 for name, value in tensors.items() if name.startswith("frozen."))
    state = sum(value.numel() for name, value in tensors.items() if name.startswith("optimizer."))
    assert state <= 16 * SIDES + 100


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("word", WORDS)
def test_every_trained_weight_has_exactly_one_optimizer(word: str, optimizer: str) -> None:
    tuning, chosen = (
        build(OmegaConf.load(conf_directory() / f"{group}/{name}.yaml"), group)
        for group, name in (("tuning", word), ("optimizer", optimizer))
    )
    model = gpt()
    tuning.apply(model, seed=0)
    optimizers = chosen.build(model.network)
    held = Counter(id(p) for one in optimizers for group in one.param_groups for p in group["params"])
    assert held == Counter(id(p) for p in model.parameters())
    if optimizer == "muon" and word != "full":
        adapters = {id(p) for name, p in model.network.named_parameters() if "lora" in name}
        assert {id(p) for p in optimizers[0].param_groups[0]["params"]} == adapters


# Both tunings, all optimizers; each factor acts alone on what a checkpoint contains.
RESUMED = {("lora", "adamw"), ("lora_plus", "adafactor"), ("lora", "muon")}
CASES = [(word, optimizer) for word in ("lora", "lora_plus") for optimizer in OPTIMIZERS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "optimizer"),
    [pytest.param(*case, marks=() if case in RESUMED else pytest.mark.grid) for case in CASES],
)
def test_a_stopped_run_resumes_to_the_same_bits(
    word: str,
    optimizer: str,
    job: Callable[..., Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [f"tuning={word}", f"optimizer={optimizer}", "tuning.dropout=0.1"]
    chosen = job(*words, "steps=4")
    whole, expected = started(chosen, folder / f"{word}-{optimizer}-whole")
    stopped = folder / f"{word}-{optimizer}-stopped"
    # At a step of the extension, whose base exists already, and in the middle of the evaluation.
    assert "at step" in stopped_after(1, chosen, stopped, monkeypatch)
    assert "evaluation" in stopped_after(3, chosen, stopped, monkeypatch)
    directory, results = started(chosen, stopped)
    exported = [(run.model / "model.safetensors").read_bytes() for run in (directory, whole)]
    assert exported[0] == exported[1]
    assert results["curve"] == expected["curve"]
    losses = [[line["loss"] for line in run.read_metrics()] for run in (directory, whole)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_an_exported_run_without_figures_measures_the_merged_weights(finished: Finished, job: Callable[..., Any], folder: Path) -> None:
    directory, expected = finished["lora_plus"]
    again = Path(shutil.copytree(directory.path, folder / "again"))
    (again / "results.json").unlink()
    exported = (again / "model/model.safetensors").read_bytes()
    assert started(job("tuning=lora_plus"), again)[1]["curve"] == expected["curve"]
    assert (again / "model/model.safetensors").read_bytes() == exported


@pytest.mark.slow
def test_checkpoints_are_refused_with_other_frozen_weights(
    source: Path, job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["model=pretrained", f"model.source={source}", "context=none", "evaluation=[]"]
    chosen = job("tuning=lora", *more)
    stopped_after(0, chosen, tmp_path / "run", monkeypatch)
    file = source / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    # The hash of the checkpoint's files, which would be noticed first, is only known of folders.
    (tmp_path / "run/results.json").unlink()
    message = r"was trained with other frozen weights .*\(model.layers.1.mlp.up_proj.weight differs\).* overwrite=true"
    with pytest.raises(RunError, match=message):
        started(chosen, tmp_path / "run")


@pytest.mark.slow
# peft calls a deprecated function of transformers.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_checkpoint_with_an_adapter_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, get_peft_model

    network = AutoModelForCausalLM.from_pretrained(source)
    get_peft_model(network, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(source)
    message = "contains an adapter, which is not a whole model; merge it into its model"
    with pytest.raises(ConfigError, match=message):
        Pretrained(source=str(source))
    # The files of a hub id are not checked beforehand.
    monkeypatch.setattr(Pretrained, "__post_init__", lambda self: None)
    with pytest.raises(ConfigError, match=message):
        Pretrained(source=str(source)).build(257, seed=0)


def test_an_unknown_target_is_refused_before_the_base_is_trained(job: Callable[..., Any], tmp_path: Path) -> None:
    bases = f"context.curriculum.base.directory={tmp_path}/bases"
    message = r"^tuning\.targets=v_prj: is not the end of the name of a linear layer .* did you mean v_proj\?$"
    with pytest.raises(ConfigError, match=message):
        started(job("tuning=lora", "tuning.targets=[q_proj,v_prj]", bases), tmp_path / "run")
    assert not (tmp_path / "bases").exists()
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_bfloat16_trains_adapters_in_float32(finished: Finished, job: Callable[..., Any], tmp_path: Path) -> None:
    directory, half = started(job("tuning=lora", "evaluation=[]", "precision=bf16"), tmp_path / "half")
    assert half["stages"][0]["loss"] == pytest.approx(finished["lora"][1]["stages"][0]["loss"], abs=2e-2)
    tensors = load_file(directory.checkpoints / "step-000005/tensors.safetensors")
    dtypes = {value.dtype for name, value in tensors.items() if name.startswith("model.")}
    assert dtypes == {torch.float32}
