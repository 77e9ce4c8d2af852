"""Runs with a teacher: it stays as it is, belongs to the run, and is refused in one line if the student cannot learn from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from tests.networks import network
from tests.training.conftest import Workshop

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.objectives.distillation import Distillation
from elongate.objectives.teacher import Teacher, TeacherSource
from elongate.training import teaching
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

DISTILLED = ["objective=distillation", "evaluation=[]"]
STUDENT = ["context=none", "context/curriculum=fixed", "model.num_layers=1", "training.checkpoint_steps=1"]


@pytest.fixture(scope="module")
def teacher(start: Workshop) -> Path:
    """A model that was trained on 128 tokens."""
    directory, _ = start("teacher", "context/curriculum=fixed", "steps=1", "evaluation=[]")
    return directory.model


class Observed(Teacher):
    """A teacher that compares its weights at its end with those at its start."""

    made: ClassVar[list[Observed]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.before = self._weights()
        self.made.append(self)

    def close(self) -> None:
        network = self.model.network
        assert not network.training
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
        self.after, self.places = self._weights(), {p.data_ptr() for p in network.parameters()}
        super().close()
        assert all(p.is_meta for p in network.parameters())

    @property
    def is_unchanged(self) -> bool:
        return all(torch.equal(self.after[name], value) for name, value in self.before.items())

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: p.clone() for name, p in self.model.network.named_parameters()}


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> list[Observed]:
    """The teachers of the test."""
    monkeypatch.setattr(teaching, "Teacher", Observed)
    Observed.made.clear()
    return Observed.made


def weights(directory: RunDirectory) -> bytes:
    return (directory.model / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_student_resumes_bit_exactly_and_its_teacher_stays_as_it_is(start: Workshop, teacher: Path, teachers: list[Observed]) -> None:
    words = [*DISTILLED, *STUDENT, f"objective.teacher.source={teacher}"]
    stored = (teacher / "model.safetensors").read_bytes()
    directory, results = start("student", *words)
    expected, losses = weights(directory), directory.read_metrics()
    assert results["strategy"]["objective"] == "distillation"
    # The student has one layer, its teacher two.
    assert not any(".layers.1." in name for name in load_file(directory.checkpoints / "step-000003/tensors.safetensors"))
    shutil.rmtree(directory.model)
    start("student", *words, "training.resume_from=step-000002")
    assert weights(directory) == expected
    assert [line["loss"] for line in directory.read_metrics()] == [line["loss"] for line in losses]
    assert (teacher / "model.safetensors").read_bytes() == stored
    assert [one.is_unchanged for one in teachers] == [True, True]
    # Another teacher at the same place.
    recorded = json.loads(directory.results.read_text())
    del recorded["finished"]
    directory.write_results(recorded)
    changed = bytearray(stored)
    changed[-1] ^= 1
    (teacher / "model.safetensors").write_bytes(changed)
    with pytest.raises(ConfigError, match=r"^teacher: the teacher changed since the run .* started; restore it"):
        run(start.job(*words), directory)
    (teacher / "model.safetensors").write_bytes(stored)


@pytest.mark.grid
def test_the_model_before_the_extension_teaches_without_a_copy_of_what_is_frozen(
    start: Workshop, teachers: list[Observed], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[set[int]] = []
    original = teaching.with_teacher

    def recorded(*arguments: Any) -> Any:
        frozen.append({p.data_ptr() for p in arguments[3].network.parameters() if not p.requires_grad})
        return original(*arguments)

    monkeypatch.setattr("elongate.training.run.with_teacher", recorded)
    causal, _ = start("causal", "evaluation=[]", "steps=1")
    directory, _ = start("self", *DISTILLED, "tuning=lora")
    assert directory.read_metrics()[0] == causal.read_metrics()[0]  # the same base, not trained again
    assert len(list((start.folder / "runs/bases").iterdir())) == 1
    (one,) = teachers
    assert one.length == 32
    assert one.is_unchanged
    assert one.places == frozen[-1]


@pytest.fixture(scope="module")
def job(start: Workshop) -> Any:
    return start.job(*DISTILLED)


def learning_from(folder: Path, job: Any) -> Any:
    return replace(job, objective=Distillation(teacher=TeacherSource(source=str(folder))))


def llama(folder: Path, vocab_size: int, tokenizer: bool = True, kind: str = "llama-2") -> Path:
    network(kind, dtype=torch.float32, vocab_size=vocab_size, eos_token_id=None).save_pretrained(folder)
    if tokenizer:
        ByteTokenizer().save(folder)
    return folder


def with_other_words(folder: Path) -> Path:
    llama(folder, 300)
    path = folder / "tokenizer.json"
    files = json.loads(path.read_text())
    words = files["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    path.write_text(json.dumps(files))
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "smaller table": (lambda folder: llama(folder, 200), "has another vocabulary: 200 words where the student has 257; name a teacher"),
    "unknown words": (lambda folder: llama(folder, 300, tokenizer=False), "has another vocabulary: 300 words where the student has 257;"),
    "other words": (
        with_other_words,
        "has another vocabulary: 257 tokens where the student has 257, and token 97 is 'b' there and 'a' here; name a teacher",
    ),
    "both sides": (
        lambda folder: llama(folder, 257, kind="bert"),
        "reads both sides of a text, and objective=distillation needs a teacher that reads from left to right; name a causal",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_teacher_that_the_student_cannot_learn_from_is_refused_in_one_line(reason: str, job: Any, tmp_path: Path) -> None:
    make, rule = REFUSED[reason]
    folder = make(tmp_path / "teacher")
    with pytest.raises(ConfigError) as caught:
        teaching.open_checkpoint(learning_from(folder, job), ByteTokenizer())
    assert str(caught.value).startswith(f"objective.teacher.source={folder}: {rule}")


@pytest.mark.slow
def test_a_teacher_is_refused_before_the_base_is_trained(start: Workshop, tmp_path: Path) -> None:
    directory, bases = RunDirectory(tmp_path / "run"), tmp_path / "bases"
    directory.path.mkdir()
    words = [f"objective.teacher.source={llama(tmp_path / 'teacher', 200)}", f"context.curriculum.base.directory={bases}"]
    with pytest.raises(ConfigError, match="has another vocabulary"):
        run(start.job(*DISTILLED, *words), directory)
    assert not bases.exists()
    assert list(directory.path.iterdir()) == []


def test_a_padded_table_of_the_same_tokenizer_is_accepted(job: Any, tmp_path: Path) -> None:
    folder = llama(tmp_path / "teacher", 320)
    teacher = teaching.open_checkpoint(learning_from(folder, job), ByteTokenizer())
    assert teacher is not None
    assert (teacher.model.vocab_size, teacher.length) == (320, 64)
