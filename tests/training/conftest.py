"""Tiny runs that share text, tokens and bases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY, TINY_EVALUATION, TINY_MODEL, composed
from tests.training.program import write_documents

from elongate.build import build_job
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Workshop:
    """A folder with twelve documents. Calling it runs a job in a directory of that name: two steps of base, three of extension."""

    folder: Path

    @property
    def text(self) -> Path:
        return self.folder / "text"

    def job(self, *overrides: str) -> Any:
        model = [] if "model=pretrained" in overrides else TINY_MODEL
        base = [] if {"model=pretrained", "context/curriculum=fixed"} & {*overrides} else ["context.curriculum.base.steps=2"]
        # Needle and figures take most of the time of a tiny run.
        asked = any(word.startswith("evaluation=") for word in overrides)
        evaluation = [] if asked else ["evaluation=[curve]", "evaluation.curve.num_sequences=2"]
        evaluation += TINY_EVALUATION if "evaluation=[curve,needle]" in overrides else []
        data = ["data=text", f"data.path={self.text}", f"data.cache={self.folder}/cache"]
        return build_job(*composed(*TINY, *model, *base, *evaluation, *data, *overrides))

    def __call__(self, name: str, *overrides: str) -> tuple[RunDirectory, dict[str, Any]]:
        directory = RunDirectory(self.folder / name)
        directory.path.mkdir(exist_ok=True)
        return directory, run(self.job(*overrides), directory)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A workshop in the current folder that writes no report."""
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    write_documents(workshop.text, 12)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(workshop.folder)
        patched.setattr("elongate.training.run.write_report", lambda *arguments: {"images": {}, "tables": {}})
        patched.setattr("elongate.evaluate.write_report", lambda *arguments: {"images": {}, "tables": {}})
        yield workshop
