"""Whatever lies in conf/ is found and tried: a new choice is tested before its author writes a test."""

from __future__ import annotations

from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from elongate.build import build_job
from elongate.cli import conf_directory
from tests.conftest import composed

CONF = conf_directory()
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
TARGETS = [path for path in FILES if "_target_" in OmegaConf.load(path)]
PRESETS = [path for path in FILES if path.parent.name in ("experiment", "sweep")]
TASKS = ["classification", "dialogue", "question_answering", "summarization", "translation"]
RECORD = '{"context": "text", "input": "", "answers": ["a"], "all_classes": ["a", "b"]}'  # of each of them
NEEDED = {  # what a choice cannot do without
    "model/pretrained": ["model.source={folder}"],
    "data/text": ["data.path={folder}/a.txt"],
    "data/jsonl": ["data.path={folder}/a.jsonl"],
    "data/hub": ["data.path={folder}"],
    "tokenizer/pretrained": ["tokenizer.source={folder}"],
    "objective/masked": ["model=bert"],
    "evaluation/pseudo_perplexity": ["model=bert", "objective=masked"],
    "objective/continuation": ["model=bidirectional_autoencoder"],
    "objective/reconstruction": ["model=bidirectional_autoencoder"],
    "evaluation/lm_eval": ["evaluation.lm_eval.tasks=[hellaswag]"],
    **{f"evaluation/{word}": [f"evaluation.{word}.path={{folder}}/{word}.jsonl"] for word in TASKS},
    **{f"context{group}/{word}": ["model=gpt2"] for group in ("", "/position") for word in ("interpolate", "tile")},
}


def word(path: Path) -> str:
    return path.relative_to(CONF).with_suffix("").as_posix()


@pytest.mark.parametrize("path", TARGETS, ids=word)
def test_a_choice_is_a_module_of_its_name_and_states_every_field(path: Path) -> None:
    node = OmegaConf.load(path)
    module, _, name = node["_target_"].rpartition(".")
    assert module.endswith(f".{path.stem}")
    cls = getattr(import_module(module), name)
    known = {field.name: field for field in fields(cls) if field.init}
    assert set(node) - {"_target_", "defaults"} == set(known)
    for key, field in known.items():
        given = OmegaConf.to_container(node)[key]
        if field.default is not MISSING:
            assert given == field.default, f"{key}: the YAML and the class disagree"


@pytest.mark.parametrize("path", [path for path in FILES if path not in PRESETS], ids=word)
def test_every_choice_builds_with_all_else_as_it_is(path: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 256}')
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.jsonl").write_text('{"text": "text"}')
    for task in TASKS:
        (tmp_path / f"{task}.jsonl").write_text(RECORD)
    group = path.parent.relative_to(CONF).as_posix()
    value = f"[{path.stem}]" if group == "evaluation" else path.stem
    more = [override.format(folder=tmp_path) for override in NEEDED.get(word(path), [])]
    job = build_job(*composed(f"{group}={value}", *more))
    assert job.config[group.split("/")[0]]


@pytest.mark.parametrize("path", PRESETS, ids=word)
def test_a_preset_builds_starts_with_its_command_and_adds_no_key(path: Path) -> None:
    assert build_job(*composed(f"{path.parent.name}={path.stem}"))
    assert f"python train.py {'-m ' if path.parent.name == 'sweep' else ''}{path.parent.name}={path.stem}" in path.read_text()


def test_pretrained_models_bring_their_curriculum_and_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 256}')
    model = ["model=pretrained", f"model.source={tmp_path}"]
    job = build_job(*composed(*model))
    assert (job.strategy.curriculum.word, type(job.tokenizer).__name__, job.tokenizer.source) == ("extend", "Pretrained", str(tmp_path))
    assert build_job(*composed(*model, "context=progressive")).strategy.curriculum.word == "progressive"
    assert build_job(*composed(*model, "tokenizer=byte")).tokenizer.__class__.__name__ == "Byte"
