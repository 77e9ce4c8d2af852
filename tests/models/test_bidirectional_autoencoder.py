"""model=bidirectional_autoencoder: whole runs, and what is refused before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import TINY, composed, evaluated, leave_figures_empty
from tests.models.autoencoders import autoencoder, example
from transformers import AutoModelForMaskedLM

from elongate.build import build_job
from elongate.errors import ConfigError
from elongate.memory.plain import Plain
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.models.gpt import Gpt
from elongate.objectives.continuation import Continuation
from elongate.objectives.objective import Objective
from elongate.objectives.reconstruction import Reconstruction
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

SMALL = ["original_length=32", "block_length=8", "latents_per_block=2", "dim=32", "num_heads=4", "mlp_dim=48"]
SMALL += ["num_encoder_layers=1", "num_decoder_layers=2"]
MODEL = ["model=bidirectional_autoencoder", *(f"model.{size}" for size in SMALL)]


def ran(folder: Path, *overrides: str) -> tuple[RunDirectory, dict[str, Any]]:
    """A run on a few documents."""
    text = folder.parent / "text"
    if not text.exists():
        text.mkdir()
        for i in range(12):
            lines = "".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(120))
            (text / f"{i:02d}.txt").write_text(lines)
    files = ["data=text", f"data.path={text}", f"data.cache={folder.parent}/cache"]
    files += [f"context.curriculum.base.directory={folder.parent}/bases"]
    folder.mkdir()
    directory = RunDirectory(folder)
    with pytest.MonkeyPatch.context() as patched:
        leave_figures_empty(patched)
        return directory, run(build_job(*composed(*TINY, *files, *overrides)), directory)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    """A run that streams its blocks, in bfloat16, measured and exported."""
    more = ["context.curriculum.base.steps=2", "memory=checkpoint", "precision=bf16"]
    more += ["evaluation=[curve]", "evaluation.curve.num_sequences=4"]
    return ran(tmp_path_factory.mktemp("runs") / "first", *MODEL, *more)


@pytest.mark.slow
def test_a_run_trains_a_base_extends_it_and_measures_it(finished: tuple[RunDirectory, dict[str, Any]]) -> None:
    directory, results = finished
    assert results["strategy"]["objective"] == "continuation"
    assert results["strategy"]["proof"]["frequency_error"] < 1e-5
    assert [line["length"] for line in directory.read_metrics()] == [32, 32, 128, 128, 128]
    table = results["curve"]["table"]
    assert table["edges"][:3] == [0, 8, 32]
    assert all(table[row]["loss"][0] is None for row in ("before", "untuned", "after"))  # within the first segment
    assert all(loss is not None for row in ("before", "untuned", "after") for loss in table[row]["loss"][1:])
    assert AutoModelForMaskedLM.from_pretrained(directory.model).config.rope_parameters["rope_type"] == "yarn"
    assert json.loads((directory.model / "config.json").read_text())["encoder_rope_theta"] == 10_000


@pytest.mark.slow
def test_evaluating_a_run_again_gives_the_same_figures(finished: tuple[RunDirectory, dict[str, Any]]) -> None:
    directory, results = finished
    again = evaluated(directory.path, directory.path.parent / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]


@pytest.mark.slow
def test_a_trained_base_is_opened_and_extended(finished: tuple[RunDirectory, dict[str, Any]]) -> None:
    folder = finished[0].path.parent
    (base,) = (folder / "bases").glob("*-*")
    further = ["model=pretrained", f"model.source={base / 'model'}", "context=yarn", "evaluation=[]"]
    further += ["objective=continuation", "objective.continuation_length=16"]
    _, results = ran(folder / "second", *further, "context.target_length=256")
    assert (results["strategy"]["original_length"], results["stages"][0]["length"]) == (32, 256)
    message = r"context\.target_length=250: leaves 234 of 250 .*use context\.target_length=248"
    with pytest.raises(ConfigError, match=message):
        ran(folder / "third", *further, "context.target_length=250")


def test_bfloat16_gives_the_loss_of_float32_to_its_precision() -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        model = autoencoder(torch.float32)
        model.precision = precision
        losses[precision] = Plain().backward(model, example("continuation"))
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=2e-2)


SIZES: dict[str, Any] = {"original_length": 32, "block_length": 8, "latents_per_block": 8, "dim": 32, "num_heads": 4}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"latents_per_block": 9}, "is more than the block_length of 8 tokens that it replaces; use {key}=8 or less"),
        ({"latents_per_block": 0}, "must be at least 1; use {key}=64"),
        ({"original_length": 30}, "must be a multiple of the block length 8; use {key}=32"),
        ({"num_kv_heads": 3}, "must divide num_heads=4; use {key}=4"),
        ({"dim": 36}, "must be an even multiple of num_heads=4: rotary positions rotate pairs; use {key}=32"),
        ({"rope_theta": 1.0}, "must be above 1; use {key}=10000"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        BidirectionalAutoencoder(**SIZES | sizes)
    ((key, value),) = sizes.items()
    assert str(refused.value) == f"{key}={value}: {message.format(key=key)}"


@pytest.mark.parametrize(
    ("objective", "lengths", "line"),
    [
        (
            Continuation(),
            (100, 32, 8),
            "context.target_length=100: leaves 84 of 100 tokens to encode, not a multiple of the block length 8; "
            "use context.target_length=96",
        ),
        (
            Continuation(continuation_length=12),
            (32, 32, 8),
            "objective.continuation_length=12: leaves 20 of 32 tokens to encode, not a multiple of the block length 8; "
            "use objective.continuation_length=16",
        ),
        (
            Continuation(continuation_length=32),
            (32, 32, 8),
            "objective.continuation_length=32: leaves 0 of 32 tokens to encode, not a multiple of the block length 8; "
            "use objective.continuation_length=24",
        ),
        (
            Continuation(),
            (32, 32, 32),
            "objective.continuation_length=null: leaves 16 of 32 tokens to encode, not a multiple of the block length "
            "32; use model.block_length=16",
        ),
        (
            Reconstruction(),
            (100, 32, 8),
            "context.target_length=100: is not a multiple of the block length 8; use context.target_length=96",
        ),
    ],
)
def test_lengths_that_are_not_whole_blocks_are_refused(objective: Objective, lengths: tuple[int, int, int], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        objective.check_blocks(*lengths)
    assert str(refused.value) == line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("context.target_length=100", r"context\.target_length=100: leaves 84 of 100 tokens"),
        ("context=window", r"context/attention=window: needs attention that goes .*; use context/attention=full"),
        ("objective=causal", r"objective=causal: needs a model that reads from .*; use objective=continuation"),
        (
            "data.isolate_documents=true",
            r"data\.isolate_documents=true: needs attention in regions.*; use data\.isolate_documents=false",
        ),
    ],
)
def test_a_job_of_the_autoencoder_refuses_what_it_cannot_do(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_job(*composed(*TINY, *MODEL, overrides))


@pytest.mark.parametrize("objective", [Continuation(), Reconstruction()], ids=lambda objective: objective.word)
def test_an_objective_of_the_autoencoder_is_refused_on_other_models(objective: Objective) -> None:
    message = f"objective={objective.word}: needs a model that encodes and decodes, which model=gpt does not"
    with pytest.raises(ConfigError, match=message):
        objective.check(Gpt.has, Gpt.word)
