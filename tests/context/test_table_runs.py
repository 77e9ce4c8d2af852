"""Whole runs of models with learned tables."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.context.test_tables import BEHIND_PADDING, TABLES, logits
from tests.interrupts import SignalAfter
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from elongate.errors import ConfigError, Stopped
from elongate.models.pretrained import Pretrained
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

SHORT = ("context.curriculum.base.steps=2", "steps=4")


# tests/test_matrix.py also runs both tables on both models, and both samplings on an interpolated table.
RUNS = [
    pytest.param(*row, marks=[pytest.mark.slow] if row == ("bert", "tile", "pose") else [pytest.mark.slow, pytest.mark.grid])
    for row in product(["gpt2", "bert"], TABLES, [None, "pose", "randomized"])
]


@pytest.mark.parametrize(("model", "word", "sampling"), RUNS)
def test_a_model_with_a_table_trains_evaluates_and_exports(
    model: str, word: str, sampling: str | None, ran: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    sampled = () if sampling is None else (f"context/sampling={sampling}",)
    directory, results = ran("run", f"model={model}", f"context={word}", *sampled, *SHORT)
    assert f"position {word}: active. A table of 128 positions made of 32; matches the closed form to" in capfd.readouterr().out
    assert results["strategy"]["proof"]["table"]["row_error"] < 1e-6
    (stage,) = results["stages"]
    assert stage["length"] == (128 if sampling is None else 32)
    assert 32 < stage["reach"] <= 128
    # The base has no row past its end, and therefore no loss there.
    reached = {row: [loss is not None for loss in results["curve"]["table"][row]["loss"]] for row in ("before", "untuned", "after")}
    assert reached["untuned"][:4] == reached["after"][:4] == [True] * 4
    assert reached["before"][:2] == [True] * 2
    assert not reached["before"][3]
    ours, tokens = Pretrained(source=str(directory.model)).build(257, 0), torch.randint(257, (2, 128))
    plain = (AutoModelForCausalLM if model == "gpt2" else AutoModelForMaskedLM).from_pretrained(directory.model)
    assert plain.config.max_position_embeddings == 128
    with torch.no_grad():
        assert_close(plain(tokens).logits, logits(ours, tokens), rtol=0, atol=1e-5)


def weights(directory: RunDirectory) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory.model / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("context/curriculum=progressive", "tuning=lora_plus"),
        pytest.param(("context/curriculum=progressive",), marks=pytest.mark.grid),
        pytest.param(("tuning=lora_plus",), marks=pytest.mark.grid),
    ],
    ids=" ".join,
)
def test_a_stopped_run_resumes_with_its_longer_table(
    more: tuple[str, ...], ran: Callable[..., Any], build_tiny: Callable[..., Any], text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=gpt2", "context=interpolate", "evaluation=[]", "training.checkpoint_steps=1", *SHORT, *more]
    whole, results = ran("whole", *words)
    assert results["budget"]["base"] is not None
    with monkeypatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(2))
        with pytest.raises(Stopped):
            ran("stopped", *words)
    stopped = RunDirectory(whole.path.parent / "stopped")
    assert 0 < len(stopped.read_metrics()) < len(whole.read_metrics())
    again = run(build_tiny("data=text", f"data.path={text_folder}", *words), stopped)
    assert again["strategy"] == results["strategy"]
    assert again["data"] == results["data"]
    for name, weight in weights(whole).items():
        assert torch.equal(weights(stopped)[name], weight), name
    assert table_was_trained(whole, results)


def table_was_trained(directory: RunDirectory, results: dict[str, Any]) -> bool:
    """Whether an interpolated table differs from that of the base, as torch interpolates it."""
    base = weights(RunDirectory(Path(results["budget"]["base"]["path"])))["transformer.wpe.weight"]
    # 125 rows: those before the repeated last row.
    untrained = torch.nn.functional.interpolate(base.T[None], size=125, mode="linear", align_corners=True)[0].T
    return not torch.allclose(weights(directory)["transformer.wpe.weight"][:125], untrained, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuning", "trained"), [*(pytest.param(each, True, marks=pytest.mark.grid) for each in ("full", "lora_plus")), ("lora", False)]
)
def test_the_longer_table_is_trained_if_embeddings_are(tuning: str, trained: bool, ran: Callable[..., Any]) -> None:
    directory, results = ran("run", "model=gpt2", "context=interpolate", f"tuning={tuning}", "evaluation=[]", *SHORT)
    assert table_was_trained(directory, results) is trained


@pytest.mark.slow
def test_a_checkpoint_is_extended_with_its_own_table(ran: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = BEHIND_PADDING | {"vocab_size": 300, "max_position_embeddings": 34}
    RobertaForMaskedLM(RobertaConfig(**sizes)).save_pretrained(tmp_path / "roberta")
    source = ("model=pretrained", f"model.source={tmp_path}/roberta", "tokenizer=byte", "objective=masked")
    directory, results = ran("run", *source, "context=interpolate", "evaluation=[]")
    assert (results["strategy"]["original_length"], results["strategy"]["proof"]["table"]["length"]) == (32, 128)
    assert AutoModelForMaskedLM.from_pretrained(directory.model).config.max_position_embeddings == 130
    with pytest.raises(ConfigError, match=r"context/position=none: needs positions that are computed .*; use context/position=interpolate"):
        ran("none", *source, "context=none", "evaluation=[]")
