"""Random configurations: a choice of every group of `conf`, and values of some keys, valid or not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from elongate.build import build_job
from elongate.choices import Choices
from elongate.cli import conf_directory
from elongate.errors import ConfigError, ElongateError
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory
from tests.conftest import TINY_EVALUATION, composed
from tests.matrix import MODELS

_GROUPS = ("objective", "optimizer", "schedule", "data", "tokenizer", "tuning", "memory")
_PARTS = ("context/position", "context/attention", "context/curriculum", "context/sampling")
# What a key may be set to. Large numbers are for keys that nothing is allocated by.
VALUES = [0, 1, 2, 3, 7, 64, -1, 0.0, 0.5, 1.0, -0.5, 1e-9, 1e30, None, True, False, "", "word", "7", [], [0], [1, 2], ["a"], {"a": 1}]
_SECONDS = ("lm_eval", "longppl", "needle", "retrieval")  # evaluations that a random run leaves out
_CHOICES = Choices((conf_directory(),))


@dataclass(frozen=True)
class Case:
    """A configuration as a user would write it."""

    words: tuple[str, ...]  # choices
    values: tuple[tuple[int, Any], ...]  # which of the keys, counted round, and its value

    def config(self, folder: Path) -> tuple[DictConfig, dict[str, str]]:
        config, choices = _composed(self.words)
        config = config.copy()
        for key, value in _tiny(folder.parent, config).items():
            OmegaConf.update(config, key, value)
        keys = [key for key in _leaves(config) if not key.endswith(("_target_", "cache", "directory", "source", "path"))]
        for number, value in self.values:
            OmegaConf.update(config, keys[number % len(keys)], value)
        return config, choices

    def outcome(self, folder: Path, runs: bool) -> str:
        """`refused`, `built` or `ran`. Raises what is not for the user, and `AssertionError` if a refusal leaves anything."""
        directory = RunDirectory(folder / "run")
        directory.path.mkdir()
        try:
            config, choices = self.config(folder)
            job = build_job(config, choices)
            if not runs or not _is_small(job):
                return "built"
            run(job, directory)
        except ElongateError as fault:
            line, is_refused = str(fault), isinstance(fault, ConfigError)
        else:
            return "ran"
        assert line.strip()
        assert "\n" not in line
        assert not is_refused or list(directory.path.iterdir()) == []
        return "refused"


def _words(group: str) -> list[str]:
    return _CHOICES.words(group)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any choice of a model, a context and some other groups, and up to two values."""
    words = [f"{group}={draw(st.sampled_from(_words(group)))}" for group in ("model", "context")]
    for group in draw(st.lists(st.sampled_from(_GROUPS), unique=True, max_size=3)):
        words.append(f"{group}={draw(st.sampled_from(_words(group)))}")
    for group in draw(st.lists(st.sampled_from(_PARTS), unique=True, max_size=1)):
        words.append(f"{group}={draw(st.sampled_from(_words(group)))}")
    named = [word for word in _words("evaluation") if word not in _SECONDS]
    words.append(f"evaluation=[{','.join(draw(st.lists(st.sampled_from(named), unique=True, max_size=2)))}]")
    values = draw(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(VALUES)), max_size=2))
    return Case(tuple(words), tuple(values))


@cache
def _composed(words: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
    return composed("tracking=none", *words)


def _tiny(files: Path, config: DictConfig) -> dict[str, Any]:
    """The sizes of a run of a second, and its files."""
    word = str(config.model._target_).split(".")[-2]
    sizes = dict(size.split("=") for size in [*MODELS.get(word, []), *TINY_EVALUATION])
    tiny: dict[str, Any] = {key: OmegaConf.create(f"v: {value}").v for key, value in sizes.items()}
    tiny |= {"steps": 2, "batch_tokens": 256, "context.target_length": 128, "context.curriculum.base.steps": 2}
    tiny |= {"data.path": str(files / ("hub" if "Hub" in str(config.data._target_) else "text.jsonl")), "data.cache": str(files / "cache")}
    tiny |= dict.fromkeys(("model.source", "tokenizer.source"), str(files / "llama"))
    tiny |= {"context.curriculum.base.directory": str(files / "bases")}
    tiny |= {f"evaluation.{name}.path": str(files / "text.jsonl") for name in config.evaluation}
    known = set(_leaves(config))
    return {key: value for key, value in tiny.items() if key in known}


def _leaves(config: DictConfig) -> list[str]:
    """The full keys of all values; lists and missing values count as values."""
    found: list[str] = []

    def visit(node: DictConfig, path: str) -> None:
        for key in node:
            inner = node._get_node(key)
            if isinstance(inner, DictConfig) and not inner._is_none() and not inner._is_missing() and len(inner):
                visit(inner, f"{path}{key}.")
            else:
                found.append(f"{path}{key}")

    visit(config, "")
    return sorted(found)


def _is_small(job: Any) -> bool:
    """Whether a run takes seconds."""
    sizes = [value for value in vars(job.model).values() if type(value) is int]
    base = getattr(job.strategy.curriculum, "base", None)
    counts = [job.steps, getattr(base, "steps", 0)]
    return max([*sizes, 0]) <= 300 and max(counts) <= 7 and max(job.batch_tokens, job.strategy.target_length) <= 512 and not job.compile
