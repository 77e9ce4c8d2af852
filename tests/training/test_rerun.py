"""The config.yaml of a run is a configuration: it repeats the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.commands import Command, contents
from tests.conftest import TINY, TINY_MODEL

from elongate.arguments import rerun_arguments


@pytest.mark.slow
def test_the_configuration_of_a_run_repeats_it(text_folder: Path, here: Command, tmp_path: Path) -> None:
    words = [*TINY, *TINY_MODEL, "steps=2", "evaluation=[]", "context=ntk", "context/curriculum=fixed", "optimizer=muon"]
    first = here("train", *words, "data=text", f"data.path={text_folder}", torch=True)
    assert first.code == 0, first
    run = tmp_path / "runs" / "gpt-ntk-default"
    options = ["--config-dir", str(run), "--config-name", "config"]
    assert here("train", *options, torch=True).code == 0
    again = tmp_path / "runs" / "gpt-ntk-default-again"
    for name in ("config.yaml", "model/model.safetensors"):
        assert contents(run)[name] == contents(again)[name]
    assert json.loads((again / "results.json").read_text())["provenance"]["command"] == f"python train.py {' '.join(options)}"
    assert here("train", *options, "stepz=3").reported(2) == "stepz=3: there is no such key; did you mean steps?"


def test_a_configuration_of_the_user_keeps_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [train]\n")
    arguments = ["--config-dir", str(tmp_path), "--config-name", "mine"]
    assert rerun_arguments(arguments) == arguments
    (tmp_path / "mine.yaml").write_text("seed: 0\n")
    assert f"hydra.run.dir=runs/{tmp_path.name}-again" in rerun_arguments(arguments)
    assert "hydra.run.dir=x" in (found := rerun_arguments([*arguments, "hydra.run.dir=x"]))
    assert sum(word.startswith("hydra.run.dir=") for word in found) == 1
