"""A run directory whose files or settings changed between two starts: repaired, continued or refused for the true reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import Workshop
from tests.training.program import without_times

from elongate.errors import ConfigError
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

WORDS = ["context/curriculum=fixed", "steps=4", "training.checkpoint_steps=2", "evaluation=[curve]", "evaluation.curve.num_sequences=2"]


@pytest.fixture(scope="module")
def finished(start: Workshop) -> Path:
    directory, _ = start("finished", *WORDS)
    return directory.path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(finished, tmp_path / "copy")))


def outcome(directory: Path) -> dict[str, Any]:
    """Everything that a run leaves, but no times. The workshop writes no report."""
    run_directory = RunDirectory(directory)
    weights = (run_directory.model / "model.safetensors").read_bytes()
    return {
        "weights": weights,
        "metrics": without_times(run_directory.read_metrics()),
        "results": without_times(run_directory.read_results()),
    }


Change = Callable[[RunDirectory], Any]


def cut(directory: RunDirectory) -> None:
    text = directory.metrics.read_text()
    directory.metrics.write_text(text[: len(text) // 2])


REPAIRED: dict[str, Change] = {
    "no export": lambda directory: shutil.rmtree(directory.model),
    "results cut": lambda directory: directory.results.write_text(directory.results.read_text()[:100]),
    "results of another type": lambda directory: directory.results.write_text("[]"),
    "no results": lambda directory: directory.results.unlink(),
    "no results and metrics cut": lambda directory: (directory.results.unlink(), cut(directory)),
    "no results and no metrics": lambda directory: (directory.results.unlink(), directory.metrics.unlink()),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", REPAIRED)
def test_the_same_command_repairs_the_run(change: str, start: Workshop, finished: Path, copy: RunDirectory) -> None:
    REPAIRED[change](copy)
    run(start.job(*WORDS), copy)
    assert outcome(copy.path) == outcome(finished)


@pytest.mark.slow
def test_a_report_that_was_removed_is_written_again(start: Workshop, copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr("elongate.training.run.write_report", lambda folder, evaluations: written.append(folder))
    run(start.job(*WORDS), copy)
    assert written == [copy.path]
    (copy.path / "report.html").touch()
    run(start.job(*WORDS), copy)
    assert written == [copy.path]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["memory=checkpoint"],
        ["memory=stream", "memory.chunk_length=32"],
        ["device=cpu"],
        ["training.log_steps=3", "training.checkpoint_steps=1"],
    ],
    ids=" ".join,
)
def test_a_setting_on_which_no_result_depends_may_change(words: list[str], start: Workshop, copy: RunDirectory) -> None:
    before = copy.read_results()
    assert run(start.job(*WORDS, *words), copy) == before


@pytest.mark.slow
def test_an_added_evaluation_is_measured_and_nothing_else_is_repeated(start: Workshop, copy: RunDirectory) -> None:
    before, weights = copy.read_results(), (copy.model / "model.safetensors").read_bytes()
    words = [word for word in WORDS if "evaluation=" not in word]
    results = run(start.job(*words, "evaluation=[curve,perplexity]"), copy)
    assert results["perplexity"]["after"]
    assert results["curve"] == before["curve"]
    assert results["budget"] == before["budget"]
    assert (copy.model / "model.safetensors").read_bytes() == weights
    assert "perplexity:" in copy.config.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimizer.lr=1"], "optimizer.lr=0.0005 there, 1 here); use another name=, or start over"),
        (["memory=stream", "memory.chunk_length=32", "memory.detach=true"], "memory.detach=absent there, True here); use another name="),
        (["evaluation.curve.num_sequences=3"], "num_sequences=2 there, 3 here); measure the trained model with evaluate.py checkpoint="),
        (["steps=8"], "steps=4 there, 8 here); to train it further, start from its export with model=pretrained model.source="),
    ],
    ids=["learning rate", "truncated gradients", "measurement", "steps"],
)
def test_another_setting_is_refused_with_what_to_do(words: list[str], line: str, start: Workshop, copy: RunDirectory) -> None:
    with pytest.raises(ConfigError) as caught:
        run(start.job(*WORDS, *words), copy)
    assert line in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda directory: directory.config.unlink(), "contains metrics.jsonl of a run without its config.yaml; use another name="),
        (lambda directory: directory.config.write_text("a: [1"), "its config.yaml is damaged ("),
        (lambda directory: directory.config.write_text("a"), "its config.yaml is damaged (it contains no keys)"),
    ],
    ids=["no configuration", "damaged configuration", "no keys"],
)
def test_a_run_of_an_unknown_configuration_is_refused_and_can_be_overwritten(
    change: Change, line: str, start: Workshop, finished: Path, copy: RunDirectory
) -> None:
    change(copy)
    with pytest.raises(ConfigError) as caught:
        run(start.job(*WORDS), copy)
    assert f"hydra.run.dir={copy.path}: {line}" in str(caught.value)
    run(start.job(*WORDS, "overwrite=true"), copy)
    assert outcome(copy.path) == outcome(finished)


@pytest.mark.slow
def test_text_that_changed_since_the_first_start_is_refused(start: Workshop, copy: RunDirectory, tmp_path: Path) -> None:
    text = Path(shutil.copytree(start.text, tmp_path / "text"))
    words = [*WORDS, f"data.path={text}"]
    recorded = copy.read_results()
    del recorded["finished"]
    copy.write_results(recorded)
    copy.config.write_text(copy.config.read_text().replace(str(start.text), str(text)))
    run(start.job(*words), copy)  # equal text at another place
    copy.write_results(recorded)
    next(text.iterdir()).write_text("other")
    with pytest.raises(ConfigError) as caught:
        run(start.job(*words), copy)
    assert str(caught.value).startswith(f"data: the text or the tokenizer changed since the run {copy.path} started; restore it")


@pytest.mark.slow
def test_a_checkpoint_that_changed_since_the_first_start_is_refused(start: Workshop, finished: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(finished / "model", tmp_path / "source"))
    words = [*WORDS, "model=pretrained", f"model.source={source}", "context=none", "context.target_length=128"]
    directory, _ = start("pretrained", *words)
    recorded = json.loads(directory.results.read_text())
    del recorded["finished"]
    directory.write_results(recorded)
    weights = bytearray((source / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (source / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match=r"model: the checkpoint changed since the run .* started; restore it"):
        run(start.job(*words), directory)
