"""The commands as a user types them: what they print, what they write, how long they take."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import given
from hypothesis.strategies import text
from omegaconf import DictConfig, OmegaConf

from elongate.arguments import remove_dashes
from elongate.cli import Reporter, _guarded, _slug
from elongate.errors import ConfigError, RunError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.planner import planner
from tests.commands import ROOT, Command, Result, command, processor_seconds, run_here
from tests.conftest import TINY_EVALUATION
from tests.tracking.offline import offline_runs

# A locale in which neither the output nor a file written without an encoding can have an arrow.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def hydra_import_seconds() -> float:
    """CPU time, 0.2 to 0.4 s: the unit of time limits, because a slow or shared core takes longer for everything."""
    began = processor_seconds()
    subprocess.run([sys.executable, "-c", "import hydra"], check=True)
    return processor_seconds() - began


# -- help and completion ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "code"),
    [("train", "--help", 0), ("evaluate", "--cfg job", 0), ("train", "context=interpolate", 2)],
    ids=["help", "configuration", "error"],
)
def test_help_configuration_and_errors_come_quickly_and_without_torch(program: str, arguments: str, code: int, tmp_path: Path) -> None:
    imports: list[float] = []
    commands: list[float] = []
    limit = 3 if code == 0 else 8
    while len(commands) < 8 and min(commands, default=9) >= limit * min(imports, default=1):
        imports.append(hydra_import_seconds())
        done = command(program, *arguments.split(), cwd=tmp_path)
        commands.append(done.seconds)
        assert done.code == code, done.err
    assert min(commands) < limit * min(imports)
    assert [path.name for path in tmp_path.iterdir()] == ["without"]


@pytest.mark.slow
def test_help_names_every_group_and_the_command_as_it_was_typed(here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    help_text = here("train", "--help").out
    groups = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*") if path.is_dir()}
    assert {line.split(":")[0] for line in help_text.splitlines() if ":" in line} >= groups
    assert help_text.count("python train.py ") == 3
    installed = run_here("/usr/bin/elongate-evaluate", "--help", cwd=tmp_path, torch=False).out
    assert installed.count("elongate-evaluate ") == 4
    assert "python evaluate.py" not in installed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("elongate-train optimizer=", {"optimizer=adafactor", "optimizer=adamw", "optimizer=muon"}),
        ("python train.py optimizer.lr", {"optimizer.lr="}),
    ],
)
def test_the_shell_completes_words_and_keys(line: str, choices: set[str], here: Command) -> None:
    ended = here("train", "--shell-completion", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert set(ended.out.split()) == choices


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_the_installed_command(tmp_path: Path) -> None:
    program = tmp_path / "elongate-train"
    program.write_text(f"#!{sys.executable}\nfrom elongate.cli import train\ntrain()\n")
    program.chmod(0o755)
    script = """
        eval "$(elongate-train --shell-completion install=bash)"
        COMP_WORDS=(elongate-train schedule=c) COMP_CWORD=1 COMP_LINE="elongate-train schedule=c" COMP_POINT=25
        hydra_bash_completion
        echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"schedule=constant", "schedule=cosine"}


def test_an_argument_of_a_sweep_agent_is_an_override() -> None:
    given_by_wandb = ["--optimizer.lr=0.001", "--context/attention=full", "--context/attention@context.evaluation_attention=full", "seed=1"]
    assert remove_dashes(given_by_wandb) == [word.removeprefix("--") for word in given_by_wandb]
    of_hydra = ["--cfg=job", "--config-dir=conf", "--config-name=train", "-m", "--multirun", "--package=model"]
    assert remove_dashes(of_hydra) == of_hydra


# -- a run -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One smoke run, tracked by W&B offline, in an ASCII locale and without a home directory."""
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "file").touch()
    environment = {"HOME": str(folder / "file" / "home"), "TMPDIR": str(folder), "WANDB_API_KEY": "", **ASCII}
    done = command("train", "experiment=smoke", "tracking=wandb", *TINY_EVALUATION, cwd=folder, torch=True, **environment)
    assert done.code == 0, done.err
    return folder / "runs/gpt-yarn-smoke", done


@pytest.mark.slow
def test_the_smoke_run_writes_all_that_a_run_has_and_ends_in_time(smoke: tuple[Path, Result]) -> None:
    run, done = smoke
    files = {"config.yaml", "metrics.jsonl", "checkpoints", "model", "results.json", "report.html"}
    figures = {"curve.csv", "curve.png", "needle.csv", "needle.png"}
    assert files | figures <= {path.name for path in run.iterdir()}
    assert "Loss in nats by position" in done.out
    assert "position yarn" in done.out
    assert done.seconds < 120 * hydra_import_seconds()  # measured: 58 to 81
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["stage"] for line in lines] == ["base"] * 8 + ["extend"] * 4
    assert [line["length"] for line in lines] == [64] * 8 + [256] * 4
    assert lines[-1]["tokens"] == 12 * 1024


@pytest.mark.slow
def test_a_run_needs_neither_unicode_nor_a_home(smoke: tuple[Path, Result]) -> None:
    _, done = smoke
    assert done.out.isascii()
    assert "?" in done.out  # in place of the lines and arrows of the tables
    libraries = [
        line for line in done.lines + done.out.splitlines() if "HYDRA" in line or ("atplotlib" in line and "font cache" not in line)
    ]
    assert libraries == []


@pytest.mark.slow
def test_wandb_has_the_configuration_every_step_the_tables_and_the_images(smoke: tuple[Path, Result]) -> None:
    run, done = smoke
    assert "wandb sync" in done.err + done.out
    (offline,) = offline_runs(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert offline.configuration["context"]["target_length"] == 256
    for key in ("loss", "lr", "grad_norm", "tokens"):
        assert offline.train(key) == {line["step"]: line[key] for line in lines}
    for kind in ("images", "tables"):
        assert {name.split("/")[0] for name in offline.logged(kind)} == {"curve", "needle"}
    assert offline.exit_code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_evaluate_gives_the_figures_of_the_end_of_training(smoke: tuple[Path, Result]) -> None:
    run, _ = smoke
    cwd = run.parents[1]
    done = run_here("evaluate", f"checkpoint={run.relative_to(cwd)}", cwd=cwd)
    assert done.code == 0, done.err
    trained = json.loads((run / "results.json").read_text())
    (again,) = (json.loads(path.read_text()) for path in (cwd / "runs").glob("evaluation-*/results.json"))
    for table in ("table", "fine"):
        assert again["curve"][table]["after"] == trained["curve"][table]["after"]
    assert again["needle"]["after"] == trained["needle"]["after"]


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_evaluate_takes_a_plain_checkpoint_other_text_and_the_keys_of_train(smoke: tuple[Path, Result], text_folder: Path) -> None:
    run, _ = smoke
    choices = ["data=text", f"data.path={text_folder}", "evaluation=[curve]", "evaluation.curve.length=128", "hydra.run.dir=other"]
    lengths = ["model.original_length=64", "context.target_length=128", "context/attention=window", "context.attention.window_length=32"]
    done = run_here("evaluate", f"checkpoint={run}/model", *choices, *lengths, cwd=run.parents[1])
    assert done.code == 0, done.err
    results = json.loads((run.parents[1] / "other/results.json").read_text())
    curve = results["curve"]
    assert (curve["length"], curve["original_length"], curve["target_length"]) == (128, 64, 128)
    assert results["attention"]["word"] == "window"
    assert "needle" not in results


@pytest.mark.slow
@pytest.mark.usefixtures("empty_figures")
def test_a_sweep_ends_with_one_comparison(tmp_path: Path, text_folder: Path) -> None:
    tiny = ["experiment=smoke", "steps=2", "context.curriculum.base.steps=2", "data=text", f"data.path={text_folder}"]
    tiny += ["evaluation=[curve]", "evaluation.curve.num_sequences=4"]
    sweep_words = ["-m", "context=none,pi", "seed=0,1", *tiny]
    done = run_here("train", *sweep_words, cwd=tmp_path)
    assert done.code == 0, done.err
    sweep = tmp_path / "runs/sweep-smoke"
    with (sweep / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    runs = [json.loads(path.read_text()) for path in sweep.glob("*/results.json")]
    assert len(runs) == 4
    hashes = {(run["strategy"]["context"], run["data"]["consumed_tokens_sha256"]) for run in runs}
    assert len({digest for _, digest in hashes}) == 2  # one per seed, the same for both strategies
    assert len(list((tmp_path / "runs/bases").iterdir())) == 2
    assert (sweep / "comparison.html").stat().st_size > 10_000
    again = run_here("train", *sweep_words, cwd=tmp_path, torch=False)
    assert again.code == 0, again.err  # a finished sweep is reported again without torch


def test_a_search_gets_the_figure_of_each_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`_guarded` is what a sweeper calls: it returns the figure, and ends a search, but no grid, at a wrong setting."""
    settings = OmegaConf.create({"runtime": {"output_dir": str(tmp_path)}, "run": {"dir": "x"}, "sweeper": {"_target_": "optuna"}})
    settings.mode = RunMode.MULTIRUN
    monkeypatch.setattr(HydraConfig, "get", lambda: settings)
    reporter = Reporter(lambda fault: fault, shows_traceback=False)
    assert _guarded(lambda config: 1.5, reporter)(OmegaConf.create()) == 1.5

    def wrong(config: DictConfig) -> float:
        raise ConfigError("key", 1, "is wrong", "use {key}=2")

    def diverged(config: DictConfig) -> float:
        raise RunError("the loss is NaN")

    with pytest.raises(SystemExit, match="2"):
        _guarded(wrong, reporter)(OmegaConf.create())
    assert _guarded(diverged, reporter)(OmegaConf.create()) is None
    settings.sweeper._target_ = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    assert _guarded(wrong, reporter)(OmegaConf.create()) is None


@pytest.mark.slow
@given(text())
def test_a_run_of_a_sweep_can_be_typed_as_a_checkpoint_without_quotes(words: str) -> None:
    folder = f"runs/sweep-x/a{_slug(words)}"
    (override,) = OverridesParser.create().parse_overrides([f"checkpoint={folder}"])
    assert override.value() == folder
    assert not override.is_sweep_override()


@pytest.mark.slow
def test_a_plan_is_a_table_and_leaves_nothing_behind(here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dry runs are slow, and those of two plans show as much as those of all.
    monkeypatch.setattr(planner, "_KINDS", (Plain(), Checkpoint()))
    # A learned table ends the longest length, which keeps the dry runs short.
    sizes = ["model=gpt2", "model.num_layers=1", "model.dim=32", "model.num_heads=4", "model.mlp_dim=48", "model.original_length=256"]
    done = here("train", "plan=true", *sizes, "context.target_length=1024", "batch_tokens=2048", "precision=bf16", torch=True)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("One step: 2 × 1024 tokens on cpu, ")
    rows = [line.split("   ")[0] for line in lines if line.startswith("memory=")]
    assert rows == ["memory=plain", "memory=checkpoint", "memory=checkpoint memory.keep_attention=false"]
    # The fastest plan is measured, and at such sizes on a busy machine it can be any.
    recommended, reason = lines[-1].removeprefix("recommended: ").split(" (")
    assert recommended in rows
    assert reason == "the fastest that leaves 10% of the free memory)"
    assert list(tmp_path.iterdir()) == []
