"""Which package may import which, checked in the source files."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/elongate"
FILES = sorted(SOURCE.rglob("*.py"))
# Imports go down this list, or stay on a level.
LEVELS = [
    ("cli",),
    ("check",),
    ("build", "evaluate", "generate", "config", "hydra_errors", "arguments", "choices"),
    ("training",),
    ("report",),
    ("evaluation", "generation"),
    ("memory", "objectives", "tuning", "data", "tracking"),
    ("scoring",),
    ("models",),
    ("context",),
    ("errors", "foreign", "atomic", "console", "hub", "peak_memory", "hardware", "process", "environment", "trees"),
]
LEVEL = {name: i for i, level in enumerate(LEVELS) for name in level}


@cache
def nodes_of(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text())))


def imported(file: Path) -> set[str]:
    """Modules that a file imports; those under TYPE_CHECKING are not run and count only for the layers."""
    found = set()
    for node in nodes_of(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def place(module: str) -> int | None:
    parts = module.split(".")
    return LEVEL.get(parts[1]) if parts[0] == "elongate" and len(parts) > 1 else None


def test_imports_go_one_way() -> None:
    upward = {}
    for file in FILES:
        own = LEVEL.get(file.relative_to(SOURCE).with_suffix("").parts[0], len(LEVELS))
        upward[file] = {module for module in imported(file) if (level := place(module)) is not None and level < own}
    assert {file: modules for file, modules in upward.items() if modules} == {}


@pytest.mark.slow
def test_no_files_import_each_other() -> None:
    names = {".".join(("elongate", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): file for file in FILES}
    imports = {name: (imported(file) & names.keys()) - {name} for name, file in names.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the files


def test_files_and_functions_are_short() -> None:
    assert [file for file in FILES if len(file.read_text().splitlines()) > 300] == []
    functions = [(file, node) for file in FILES for node in nodes_of(file) if isinstance(node, ast.FunctionDef)]
    assert [(file, f.name) for file, f in functions if f.end_lineno - f.lineno >= 60] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("wandb", {"tracking/wandb.py"}),
        ("hydra", {"arguments.py", "cli.py", "hydra_errors.py"}),
        (
            "omegaconf",
            {"build.py", "check/command.py", "cli.py", "config.py", "evaluate.py", "generate.py", "hydra_errors.py", "resolvers.py"},
        ),
    ],
)
def test_a_library_is_known_in_its_home_only(library: str, homes: set[str]) -> None:
    users = {file.relative_to(SOURCE).as_posix() for file in FILES if any(m.split(".")[0] == library for m in imported(file))}
    assert users == homes


@pytest.mark.slow
def test_a_whole_job_is_built_and_its_data_read_without_torch(tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    for name in ("torch", "transformers", "peft", "datasets", "wandb", "matplotlib"):
        (poison / name).mkdir(parents=True)
        (poison / name / "__init__.py").write_text(f"raise ImportError('{name} was imported')")
    root = SOURCE.parents[1]
    code = PROGRAM.replace("CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": f"{poison}:{root / 'src'}", "PATH": ""},
        check=False,
    )
    assert done.stdout == "built\n", done.stderr


PROGRAM = """
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from elongate.build import build_job
from elongate.cli import conf_directory, register_resolvers
from elongate.data.tokens import load_corpus
register_resolvers()
with initialize_config_dir(str(conf_directory()), version_base='1.3'):
    config = compose('train', overrides=['data.cache=CACHE'], return_hydra_config=True)
choices = dict(config.hydra.runtime.choices)
with open_dict(config):
    del config.hydra
job = build_job(config, choices)
load_corpus(job.data, job.tokenizer.fit(job.data))
print('built')
"""
