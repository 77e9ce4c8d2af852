"""The commands as a user types them: what they print, what they write, how long they take."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis.strategies import text

from elongate.cli import _slug
from tests.test_tracking import offline_runs

ROOT = Path(__file__).parents[1]


def command(
    *arguments: str, cwd: Path, script: str = "train.py", poison: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python train.py …`; with `poison`, importing torch fails."""
    path = str(ROOT / "src")
    if poison is not None:
        (poison / "torch").mkdir(parents=True, exist_ok=True)
        (poison / "torch/__init__.py").write_text("raise ImportError('torch was imported')")
        path = f"{poison}:{path}"
    env = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, str(ROOT / script), *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def processor_seconds() -> float:
    """Of all commands so far: unlike the time on the clock, nearly the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def hydra_import_seconds() -> float:
    """Of the processor, 0.2 to 0.4: the unit of time limits, because a slow or shared core takes longer for everything."""
    began = processor_seconds()
    subprocess.run([sys.executable, "-c", "import hydra"], check=True)
    return processor_seconds() - began


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "code", "limit"),
    [
        ("train.py", "--help", 0, 3),
        ("evaluate.py", "--help", 0, 3),
        ("train.py", "--cfg job", 0, 3),
        ("evaluate.py", "--cfg job", 0, 3),
        ("train.py", "steps=0", 2, 7),
        ("train.py", "optimizer=Adam", 2, 7),
        ("train.py", "context=interpolate", 2, 7),
    ],
)
def test_help_configuration_and_errors_come_at_once_and_without_torch(
    script: str, arguments: str, code: int, limit: int, tmp_path: Path
) -> None:
    imports: list[float] = []
    commands: list[float] = []
    while len(commands) < 8 and min(commands, default=9) >= limit * min(imports, default=1):
        imports.append(hydra_import_seconds())
        began = processor_seconds()
        done = command(*arguments.split(), script=script, cwd=tmp_path, poison=tmp_path / "poison")
        commands.append(processor_seconds() - began)
        assert done.returncode == code, done.stderr
    assert min(commands) < limit * min(imports)
    assert [path.name for path in tmp_path.iterdir()] == ["poison"]


def test_help_names_every_group_and_three_commands(tmp_path: Path) -> None:
    text = command("--help", cwd=tmp_path).stdout
    groups = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*") if path.is_dir()}
    assert {line.split(":")[0] for line in text.splitlines() if ":" in line} >= groups
    assert text.count("python train.py ") == 3


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], float]:
    """One smoke run, tracked by W&B offline, and its processor time in imports of Hydra."""
    folder = tmp_path_factory.mktemp("smoke")
    unit = hydra_import_seconds()
    began = processor_seconds()
    done = command("experiment=smoke", "tracking=wandb", cwd=folder, WANDB_API_KEY="", HOME=str(folder))
    assert done.returncode == 0, done.stderr
    return folder / "runs/gpt-yarn-smoke", done, (processor_seconds() - began) / unit


@pytest.mark.slow
def test_the_smoke_run_writes_all_that_a_run_has_and_ends_in_time(smoke: tuple[Path, Any, float]) -> None:
    run, done, imports = smoke
    files = {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "results.json",
        "report.html",
        "curve.csv",
        "curve.png",
        "needle.csv",
        "needle.png",
    }
    assert files <= {path.name for path in run.iterdir()}
    assert "Loss in nats by position" in done.stdout
    assert "position yarn: active" in done.stdout
    assert imports < 120  # 60 to 80 measured, on idle and on busy cores
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["stage"] for line in lines] == ["base"] * 8 + ["extend"] * 4
    assert [line["length"] for line in lines] == [64] * 8 + [256] * 4
    assert lines[-1]["tokens"] == 12 * 1024


@pytest.mark.slow
def test_wandb_holds_the_configuration_every_step_the_tables_and_the_images(smoke: tuple[Path, Any, float]) -> None:
    run, done, _ = smoke
    assert "wandb sync" in done.stderr + done.stdout
    (offline,) = offline_runs(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert offline.configuration["context"]["target_length"] == 256
    for key in ("loss", "lr", "grad_norm", "tokens"):
        assert offline.train(key) == {line["step"]: line[key] for line in lines}
    for kind in ("images", "tables"):
        assert {name.split("/")[0] for name in offline.logged(kind)} == {"curve", "needle"}
    assert offline.exit_code == 0


@pytest.mark.slow
def test_evaluate_gives_the_figures_of_the_end_of_training(smoke: tuple[Path, Any, float]) -> None:
    run, _, _ = smoke
    cwd = run.parents[1]
    done = command(f"checkpoint={run.relative_to(cwd)}", script="evaluate.py", cwd=cwd)
    assert done.returncode == 0, done.stderr
    trained = json.loads((run / "results.json").read_text())
    (again,) = (json.loads(path.read_text()) for path in (cwd / "runs").glob("evaluation-*/results.json"))
    for table in ("table", "fine"):
        assert again["curve"][table]["after"] == trained["curve"][table]["after"]
    assert again["needle"]["after"] == trained["needle"]["after"]


@pytest.mark.slow
def test_evaluate_takes_a_plain_checkpoint_and_other_text(smoke: tuple[Path, Any, float], text_folder: Path) -> None:
    run, _, _ = smoke
    cwd = run.parents[1]
    choices = ["data=text", f"data.path={text_folder}", "evaluation=[curve]", "evaluation.curve.length=128", "hydra.run.dir=other"]
    done = command(f"checkpoint={run}/model", *choices, script="evaluate.py", cwd=cwd)
    assert done.returncode == 0, done.stderr
    results = json.loads((cwd / "other/results.json").read_text())
    assert results["curve"]["length"] == 128
    assert "needle" not in results


@pytest.mark.slow
def test_a_sweep_ends_with_one_comparison(tmp_path: Path, text_folder: Path) -> None:
    tiny = ["experiment=smoke", "evaluation=[curve]", "data=text", f"data.path={text_folder}", "context.curriculum.base.steps=2", "steps=2"]
    done = command("-m", "context=none,pi", "seed=0,1", *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "runs/sweep-smoke"
    with (sweep / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    runs = [json.loads(path.read_text()) for path in sweep.glob("*/results.json")]
    assert len(runs) == 4
    hashes = {(run["strategy"]["context"], run["data"]["consumed_tokens_sha256"]) for run in runs}
    assert len({digest for _, digest in hashes}) == 2  # one a seed, the same for both strategies
    assert len(list((tmp_path / "runs/bases").iterdir())) == 2
    assert (sweep / "comparison.html").stat().st_size > 10_000
    again = command("-m", "context=none,pi", "seed=0,1", *tiny, cwd=tmp_path, poison=tmp_path / "poison")
    assert again.returncode == 0, again.stderr  # a finished sweep is reported again without torch


@given(text())
def test_a_run_of_a_sweep_can_be_typed_as_a_checkpoint_without_quotes(words: str) -> None:
    folder = f"runs/sweep-x/a{_slug(words)}"
    (override,) = OverridesParser.create().parse_overrides([f"checkpoint={folder}"])
    assert override.value() == folder
    assert not override.is_sweep_override()


@pytest.mark.slow
def test_a_plan_is_a_table_and_leaves_nothing_behind(tmp_path: Path) -> None:
    sizes = ["model.num_layers=1", "model.dim=32", "model.num_heads=4", "model.mlp_dim=48", "model.original_length=128"]
    done = command("plan=true", *sizes, "context.target_length=512", "batch_tokens=1024", "precision=bf16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("One step: 2 × 512 tokens on cpu, ")
    rows = [line.split("   ")[0] for line in lines if line.startswith("memory=")]
    assert rows[:3] == ["memory=plain", "memory=checkpoint", "memory=stream"]
    assert len(rows) == 6
    # Which of them is the fastest is measured, and at such sizes on a busy machine it can be any.
    recommended, reason = lines[-1].removeprefix("recommended: ").split(" (")
    assert recommended in rows
    assert reason == "the fastest that leaves 10% of the free memory)"
    assert list(tmp_path.iterdir()) == []
