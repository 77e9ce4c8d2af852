"""Every command block of the README and the documentation, run at tiny size; and the pages that are generated."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from elongate.memory.plain import Plain
from elongate.memory.planner import planner
from tests import reference
from tests.commands import run_here
from tests.conftest import leave_figures_empty
from tests.matrix import MODELS

ROOT = Path(__file__).parents[1]
# Findings record commands of past days at full size; their files are not instructions.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/recipes").glob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = {
    "context.target_length": "128",
    "model.original_length": "128",
    "batch_tokens": "256",
    "steps": "2",
    "context.curriculum.base.steps": "2",
}
TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


def commands() -> list[str]:
    """All commands in bash blocks, without their comments, each once."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            lines = block.replace("\\\n", " ").splitlines()
            found |= dict.fromkeys(" ".join(shlex.split(line, comments=True)) for line in lines if line.strip())
    return [command for command in found if command]


MAKE = [command for command in commands() if command.startswith("make ")]
PROGRAMS = [command for command in commands() if not command.startswith("make ")]


def shortened(argument: str) -> str:
    """The argument with small numbers, with two values where a sweep has more, and one seed."""
    key, separator, value = argument.partition("=")
    if key in SMALL:
        return f"{key}={SMALL[key]}"
    if separator and not value.startswith("["):
        value = ",".join(value.split(",")[: 1 if key == "seed" else 2])
    return key + separator + value


def tiny(command: str) -> tuple[str, list[str]]:
    """The program and the arguments of a command, made to last a second."""
    python, program, *arguments = shlex.split(command)
    assert python == "python", f"only make and python are run: {command}"
    given = dict(argument.partition("=")[::2] for argument in arguments)
    small = []
    if program == "train.py":
        small += ["steps=2", "batch_tokens=256", "context.target_length=128", "data.cache=cache"]
        model = given.get("model", "gpt")
        if model != "pretrained":
            layers = [] if model == "bidirectional_autoencoder" else ["model.num_layers=1"]
            small += [
                *(word for word in MODELS[model] if "num_layers" not in word or not layers),
                *layers,
                "context.curriculum.base.steps=2",
            ]
        if not any(key.startswith("tracking") for key in given):
            small += ["tracking=none"]
        if not any(key.startswith("data") for key in given):
            small += ["data=text", "data.path=books"]
        if "evaluation" not in given:
            small += ["evaluation=[curve]", "evaluation.curve.num_sequences=4"]
        if "sweep" in given:
            small += ["context=none,yarn", "seed=0"]
    if "retrieval" in given.get("evaluation", ""):
        small += ["evaluation.retrieval.lengths=[256]", "evaluation.retrieval.tasks=[copy]", "evaluation.retrieval.num_samples=2"]
    return program, [*map(shortened, arguments), *(s for s in small if s.partition("=")[0] not in given)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files, the checkpoint and the run that the commands name."""
    folder = tmp_path_factory.mktemp("workspace")
    texts = ["".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(200)) for i in range(12)]
    for place in ("books", "notes"):
        (folder / place).mkdir()
        for i, text in enumerate(texts):
            (folder / place / f"{i:02d}.txt").write_text(text)
    (folder / "book.txt").write_text("".join(texts))
    (folder / "path/to/dataset").mkdir(parents=True)
    for file in ("texts.jsonl", "path/to/dataset/train.jsonl", "path/to/texts.jsonl"):
        (folder / file).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "path/to/task.yaml").write_text(TASK.format(file=folder / "path/to/texts.jsonl"))
    question = {"id": "1", "question": "Which line?", "answers": [{"text": "line 1", "answer_start": 0}]}
    paragraphs = [{"context": texts[0][:200], "qas": [question]}]
    (folder / "squad.json").write_text(json.dumps({"version": "1.1", "data": [{"title": "lines", "paragraphs": paragraphs}]}))
    run("python train.py", folder)
    shutil.copytree(folder / "runs/gpt-yarn-default", folder / "runs/gpt-yarn-retrieval")
    for place in ("checkpoint", "extended"):
        shutil.copytree(next((folder / "runs/bases").glob("*/model")), folder / f"path/to/{place}")
    original = "checkpoint=path/to/checkpoint evaluation=[curve,retrieval] hydra.run.dir=runs/evaluation-of-the-original"
    run(f"python evaluate.py {original}", folder)
    return folder


def run(command: str, folder: Path) -> None:
    """Runs the command at tiny size in this process, in the folder. A plan compares `plain` and the plan of the command only."""
    program, arguments = tiny(command)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planner, "_KINDS", (Plain(),))
        leave_figures_empty(patched)
        result = run_here(program.removesuffix(".py"), *arguments, cwd=folder)
    assert result.code == 0, result.err


@pytest.mark.slow
@pytest.mark.parametrize("command", PROGRAMS)
def test_every_documented_command_runs(command: str, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "here")
    if command != "python train.py" and not command.startswith("python evaluate.py"):
        for name in ("gpt-yarn-default", "gpt-yarn-retrieval"):
            shutil.rmtree(tmp_path / "here/runs" / name)
    run(command, tmp_path / "here")


@pytest.mark.parametrize("command", MAKE)
def test_every_documented_target_exists(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_reference_pages_are_up_to_date() -> None:
    pages = reference.pages()
    stale = [name for name, text in pages.items() if (reference.PAGES / name).read_text() != text]
    assert stale == [], "run python -m tests.reference"
    assert {path.name for path in reference.PAGES.glob("*.md")} == set(pages)


def test_every_field_of_every_choice_is_explained() -> None:
    pages = reference.pages()
    empty = [
        f"{name}: {row}" for name, text in pages.items() for row in text.splitlines() if row.startswith("| `") and row.endswith("|  |")
    ]
    assert empty == []
