"""Every file in conf/ is found and built, so a new choice is tested before its author writes a test."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from elongate.build import build_job
from elongate.cli import conf_directory
from tests.conftest import composed

CONF = conf_directory()
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
TARGETS = [path for path in FILES if re.search("^_target_:", path.read_text(), re.MULTILINE)]  # faster than parsing YAML
PRESETS = [path for path in FILES if path.parent.name in ("experiment", "sweep")]
TASKS = ["classification", "dialogue", "question_answering", "summarization", "translation"]
RECORD = '{"context": "text", "input": "", "answers": ["a"], "all_classes": ["a", "b"]}'  # valid for every task
# No choice of one of these groups excludes a choice of another, so one composition builds a choice of each.
INDEPENDENT = ["optimizer", "schedule", "data", "tokenizer", "tuning", "memory", "tracking"]
MASKED = ["pseudo_perplexity"]  # evaluations of masked models only
# What a choice cannot be built without.
NEEDED = {
    "model=pretrained": ["model.source={folder}"],
    "data=text": ["data.path={folder}/a.txt"],
    "data=jsonl": ["data.path={folder}/a.jsonl"],
    "data=hub": ["data.path={folder}"],
    "data=mixture": ["+data@data.sources.one=stdlib", "data.shares={one:1}"],
    "tokenizer=pretrained": ["tokenizer.source={folder}"],
    "objective=masked": ["model=bert"],
    "objective=continuation": ["model=bidirectional_autoencoder"],
    "objective=reconstruction": ["model=bidirectional_autoencoder"],
    "context=interpolate": ["model=gpt2"],
    "context=tile": ["model=gpt2"],
    "experiment=distill": ["objective.teacher.source={folder}"],
}


def words(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compositions() -> list[list[str]]:
    """Choices that are built together; every file that is not a preset is in one of them."""
    columns = [[f"{group}={word}" for word in words(group)] for group in INDEPENDENT]
    found = [[choice for choice in row if choice] for row in zip_longest(*columns)]
    found.append([f"evaluation=[{','.join(word for word in words('evaluation') if word not in MASKED)}]"])
    found.append(["model=bert", f"evaluation=[{','.join(MASKED)}]"])
    found += [[f"{group}={word}"] for group in ("model", "objective", "context") for word in words(group)]
    reached = {choice for row in found for one in row for choice in chosen(one)}
    return found + [
        [choice] for choice in map(choice_of, FILES) if choice not in reached and not choice.startswith(("experiment", "sweep"))
    ]


def choice_of(path: Path) -> str:
    return f"{path.parent.relative_to(CONF).as_posix()}={path.stem}"


def chosen(choice: str) -> set[str]:
    """The choice, and the choices of subgroups that its defaults make."""
    group, _, value = choice.partition("=")
    if value.startswith("["):
        return {f"{group}={word}" for word in value[1:-1].split(",")}
    defaults = OmegaConf.load(CONF / group / f"{value}.yaml").get("defaults", [])
    pairs = [next(iter(default.items())) for default in defaults if default != "_self_"]
    overridden = {(re.sub(r"^override /([^@]*).*", r"\1", key), word) for key, word in pairs if key.startswith("override")}
    return {choice, *(f"{key}={word}" for key, word in overridden), *(f"{group}/{key}={word}" for key, word in pairs)}


@pytest.mark.parametrize("path", TARGETS, ids=choice_of)
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


@pytest.mark.slow
@pytest.mark.parametrize("choices", compositions(), ids=" ".join)
def test_every_choice_builds(choices: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 256}')
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.jsonl").write_text('{"text": "text"}')
    needed = [override.replace("{folder}", str(tmp_path)) for choice in choices for override in NEEDED.get(choice, [])]
    for choice in choices:
        if choice.startswith("evaluation=["):
            needed += files_of_tasks(tmp_path) if "summarization" in choice else []
            needed += ["evaluation.lm_eval.tasks=[hellaswag]"] if "lm_eval" in choice else []
    config, found = composed(*choices, *needed)
    job = build_job(config, found)
    built = {f"{group}={word}" for group, word in found.items()} | {f"evaluation=[{','.join(job.config['evaluation'])}]"}
    assert set(choices) <= built


def files_of_tasks(folder: Path) -> list[str]:
    for task in TASKS:
        (folder / f"{task}.jsonl").write_text(RECORD)
    return [f"evaluation.{task}.path={folder}/{task}.jsonl" for task in TASKS]


@pytest.mark.slow
def test_every_file_is_built() -> None:
    built = {choice for row in compositions() for one in row for choice in chosen(one)}
    assert {choice_of(path) for path in FILES if path not in PRESETS} <= built


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=choice_of)
def test_a_preset_builds_starts_with_its_command_and_adds_no_key(path: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    needed = [override.replace("{folder}", str(tmp_path)) for override in NEEDED.get(choice_of(path), [])]
    assert build_job(*composed(choice_of(path), *needed))
    assert f"python train.py {'-m ' if path.parent.name == 'sweep' else ''}{choice_of(path)}" in path.read_text()


@pytest.mark.slow
def test_pretrained_models_bring_their_curriculum_and_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 256}')
    model = ["model=pretrained", f"model.source={tmp_path}"]
    job = build_job(*composed(*model))
    assert (job.strategy.curriculum.word, type(job.tokenizer).__name__, job.tokenizer.source) == ("extend", "Pretrained", str(tmp_path))
    job = build_job(*composed(*model, "context=progressive", "tokenizer=byte"))
    assert (job.strategy.curriculum.word, type(job.tokenizer).__name__) == ("progressive", "Byte")
