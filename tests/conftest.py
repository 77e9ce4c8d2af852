"""Shared settings and fixtures: one thread, no hub, no account, and small models and texts."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before any import that reads them, so that no test uses a hub or an account.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from jaxtyping import install_import_hook
from omegaconf import DictConfig, open_dict
from PIL import Image

from elongate.cli import conf_directory, register_resolvers
from tests.commands import here  # noqa: F401  # a fixture of several files
from tests.compositions import keep_compositions


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--grid", type=float, default=0.0, help="fraction of the tests marked `grid` to run, 0 to 1")
    parser.addoption("--grid-seed", type=int, default=None, help="seed of that random choice; default: a new one, printed")


_CHECKED = [
    "elongate.models",
    "elongate.scoring",
    "elongate.objectives",
    "elongate.context",
    "elongate.evaluation.curve",
    "elongate.evaluation.text",
]


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch reads it when CUDA is first used
    if config.option.grid:
        # Runs of the grids check the shapes in signatures at every call, which doubles the time of many tests.
        install_import_hook(_CHECKED, "beartype.beartype")
    # Small models leave little garbage, and looking for it takes 5 to 10% of the time of imports and tests otherwise.
    gc.set_threshold(50_000, 20, 100)
    keep_compositions()
    os.fsync = lambda _: None  # files outlive a killed process without it; tests of the calls put their own here
    if config.option.grid_seed is None:
        # Workers of xdist inherit the environment and must choose the same tests as each other.
        seed = os.environ.setdefault("ELONGATE_GRID_SEED", str(random.SystemRandom().randrange(10**6)))
        config.option.grid_seed = int(seed)


def pytest_collection_finish() -> None:
    gc.freeze()  # what the imports left stays until the end, and every full collection would visit it


def pytest_sessionfinish() -> None:
    gc.collect()  # reports what the tests left open
    gc.unfreeze()  # hypothesis asks what refers to an object when its summary imports it


def pytest_unconfigure() -> None:
    gc.freeze()  # pytest collects several times more, and would visit all modules each time


def pytest_report_header(config: pytest.Config) -> str | None:
    fraction = config.option.grid
    return f"grid: {fraction:.0%} of the full grids, --grid-seed={config.option.grid_seed}" if fraction else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests marked `grid`, except for a random fraction of them."""
    draw = random.Random(config.option.grid_seed)
    fraction = config.option.grid
    dropped = {item for item in items if item.get_closest_marker("grid") and draw.random() >= fraction}
    if dropped:
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]


TINY_MODEL = ["model.original_length=32", "model.num_layers=2", "model.dim=32", "model.num_heads=4", "model.mlp_dim=48"]
TINY_EVALUATION = ["evaluation.curve.num_sequences=4", "evaluation.needle.num_samples=2", "evaluation.needle.depths=[0,1]"]
TINY_CURVE_AND_NEEDLE = ["evaluation=[curve,needle]", *TINY_EVALUATION]
TINY = [
    "tracking=none",
    "steps=3",
    "batch_tokens=256",
    "context.target_length=128",
]


def composed(*overrides: str) -> tuple[DictConfig, dict[str, str]]:
    """The configuration of `python train.py` with these overrides, and the words that were chosen."""
    GlobalHydra.instance().clear()
    register_resolvers()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config.hydra
    return config, choices


def evaluated(checkpoint: Path, directory: Path, *overrides: str) -> dict[str, Any]:
    """The results of `python evaluate.py` with these overrides."""
    from elongate.evaluate import evaluate_checkpoint

    GlobalHydra.instance().clear()
    register_resolvers()
    directory.mkdir(exist_ok=True)
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("evaluate", overrides=[f"checkpoint={checkpoint}", *overrides])
    return evaluate_checkpoint(config, conf_directory(), directory)[0]


def leave_figures_empty(patched: pytest.MonkeyPatch) -> None:
    """Pages get an empty picture for each figure, because drawing them takes longer than training a tiny model."""
    patched.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **settings: Image.new("1", (1, 1)).save(file, "png"))


@pytest.fixture
def empty_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages with an empty picture for each figure."""
    leave_figures_empty(monkeypatch)


@pytest.fixture
def build_tiny(tmp_path: Path) -> Callable[..., Any]:
    """A job of a few seconds, its files below the test's folder."""
    from elongate.build import build_job

    def build(*overrides: str) -> Any:
        model = [] if "model=pretrained" in overrides else TINY_MODEL
        chosen = any(override.startswith("evaluation=") for override in overrides)
        evaluation = [] if chosen else TINY_CURVE_AND_NEEDLE
        return build_job(*composed(*TINY, *model, *evaluation, f"data.cache={tmp_path}/cache", *overrides))

    return build


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """Twelve documents of a few thousand characters."""
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02d}.txt").write_text("".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(120)))
    return folder


@pytest.fixture
def ran(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a tiny job on a few documents and returns its directory and results."""
    from elongate.training.run import run
    from elongate.training.run_directory import RunDirectory

    monkeypatch.chdir(tmp_path)
    leave_figures_empty(monkeypatch)

    def ran(name: str, *overrides: str) -> tuple[Any, dict[str, Any]]:
        directory = RunDirectory(tmp_path / name)
        directory.path.mkdir()
        return directory, run(build_tiny("data=text", f"data.path={text_folder}", *overrides), directory)

    return ran
