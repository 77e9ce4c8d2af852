"""Tasks of the harness in an evaluation: the figures are those of our evaluations, and stopping, groups and refusals work."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.conftest import evaluated
from tests.evaluation.harness_tasks import (
    MULTIPLE_CHOICE,
    PERPLEXITY,
    ROLLING,
    choices,
    measured,
    of_bytes,
    quiet,
    rolling,
    sentence,
    task,
    written,
)

from elongate.errors import ConfigError, Stopped
from elongate.evaluation.lm_eval import LmEval
from elongate.evaluation.measurement.samples import Samples
from elongate.evaluation.perplexity import Perplexity
from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.numbers import rows_of
from elongate.evaluation.text.classification import Classification
from elongate.report.table import terminal_table
from elongate.scoring.left_to_right import LeftToRight


@pytest.fixture
def tiny(build_tiny: Callable[..., Any]) -> Any:
    model = build_tiny().model.build(257, seed=0)
    for parameter in model.network.parameters():
        if parameter.ndim > 1:
            parameter.data *= 6.0
    model.network.eval()
    return model


@pytest.mark.slow
def test_the_harness_agrees_with_our_perplexity(tiny: Any, tmp_path: Path) -> None:
    texts = [sentence(i, 30)[:100] for i in range(4)]
    path = task(tmp_path, "rolling", [{"text": text} for text in texts], **ROLLING)
    # As the harness reads them: each after an end-of-document token, in one window.
    setting = of_bytes([[256, *text.encode()] for text in texts])
    ours = Perplexity(lengths=[101], stride=100).measure(tiny, setting, quiet)
    row = measured(LmEval(tasks=[path]), tiny, setting)["rolling"]
    assert row["bits_per_byte"] == pytest.approx(ours["bits_per_byte"][0], abs=1e-4)
    assert row["byte_perplexity"] == pytest.approx(ours["perplexity"][0], rel=1e-4)
    assert row["bits_per_byte"] > 1


@pytest.mark.slow
def test_the_harness_agrees_with_our_classification(tiny: Any, tmp_path: Path) -> None:
    labels = ["sky", "stone", "old sea"]
    records = [
        {"context": sentence(i, 4), "input": "", "answers": [labels[i % 3]], "all_classes": labels, "gold": i % 3} for i in range(30)
    ]
    settings = MULTIPLE_CHOICE | {"doc_to_text": "{{context}} is:", "doc_to_choice": labels}
    path = task(tmp_path, "labels", records, **settings)
    own = Classification(path=str(tmp_path / "labels.jsonl"), template="{context} is:", num_samples=30)
    ours = own.measure(tiny, of_bytes(), quiet)
    row = measured(LmEval(tasks=[path]), tiny, of_bytes())["labels"]
    assert row["acc"] == pytest.approx(ours["accuracy"], abs=1e-12)
    assert row["acc_standard_error"] == pytest.approx(ours["accuracy_standard_error"], abs=1e-12)
    assert 0 < row["acc"] < 1


@pytest.mark.slow
def test_a_stopped_evaluation_resumes_without_repeating_requests(tiny: Any, tmp_path: Path) -> None:
    tasks = [choices(tmp_path), rolling(tmp_path, 3, 40), written(tmp_path)]
    whole = measured(LmEval(tasks=tasks), tiny, of_bytes())
    file, calls = tmp_path / "samples.jsonl", []

    def stop(text: str) -> None:
        calls.append(text)
        if len(calls) == 14:  # in the middle of the choices
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        LmEval(tasks=tasks).measure(tiny, of_bytes(samples=Samples(file)), stop)
    kept = len(file.read_text().splitlines()) - 1
    again: list[str] = []
    assert LmEval(tasks=tasks).measure(tiny, of_bytes(samples=Samples(file)), again.append) == whole
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    requests = [line for line in lines if "score" not in line]
    assert 0 < kept < len(requests) == len({line["sample"] for line in requests}) == 36 + 2 + 10
    assert {line["task"] for line in requests} == {"choices", "rolling", "written"}
    scores = [line["score"]["acc"] for line in lines if line["task"] == "choices" and "score" in line]
    assert sum(scores) / len(scores) == whole["choices"]["acc"]
    # Now all answers are stored, and the model is not used.
    silent: list[str] = []
    assert LmEval(tasks=tasks).measure(tiny, of_bytes(samples=Samples(file)), silent.append) == whole
    assert len(again) > len(silent) == 0


class Guesses(LeftToRight):
    """Answers without a network, because the shape checks that are on in tests use random numbers themselves."""

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> Any:
        return np.ones(tokens.shape)

    def answers(self, model: Any, prefix: np.ndarray, choices: np.ndarray) -> Any:
        return -(choices.sum(axis=2) % 5).astype(float), np.zeros(choices.shape[:2], dtype=bool)

    def continuation(self, model: Any, prefixes: np.ndarray, num_tokens: int, stop: Any) -> Any:
        return list(prefixes[:, :num_tokens])


def test_a_figure_that_the_harness_cannot_compute_is_one_line(tmp_path: Path) -> None:
    model = SimpleNamespace(network=torch.nn.Identity(), last_position=lambda wanted: wanted)
    path = task(tmp_path, "rolling", [{"text": "x" * 800}], **ROLLING)  # one word of 800 nats
    with pytest.raises(ConfigError, match=r"evaluation\.lm_eval\.tasks=.*: the harness cannot use it \(OverflowError: math range error\)"):
        measured(LmEval(tasks=[path]), model, of_bytes(reading=Guesses()))


def state() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), os.environ.get("DISABLE_MULTIPROC")]


@pytest.mark.slow
def test_the_harness_changes_no_random_state_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = SimpleNamespace(network=torch.nn.Identity(), last_position=lambda wanted: wanted)
    drawn = task(tmp_path, "drawn", [{"text": sentence(i, 3)} for i in range(4)], **PERPLEXITY)
    tasks = [choices(tmp_path), rolling(tmp_path, 3, 3, 3), written(tmp_path), drawn]
    before = state()
    row = measured(LmEval(tasks=tasks, num_fewshot=2), model, of_bytes(reading=Guesses()))
    assert state() == before
    assert row["drawn"]["perplexity_standard_error"] > 0  # by bootstrap, which prints and uses random numbers
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_group_has_the_weighted_mean_of_its_tasks(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Groups can contain tasks of the harness, and indexing all of them takes 10 seconds: none here.
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(tmp_path / "none/manager.py"))
    documents = [{"question": sentence(i, 4), "choices": [" sky", " sea"], "gold": int(i > 3)} for i in range(10)]
    for name, some in {"part0": documents[:3], "part1": documents[3:]}.items():
        task(tmp_path, name, some, **MULTIPLE_CHOICE)
    group = {"group": "both", "task": ["part0", "part1"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    evaluation = LmEval(tasks=[str(tmp_path / "both.yaml")])
    header, row = evaluation.header(of_bytes()), evaluation.measure(tiny, of_bytes(), quiet)
    assert (header["tasks"], header["both"]["subtasks"], header["n"]) == (["part0", "part1", "both"], ["part0", "part1"], 10)
    assert row["part0"]["acc"] != row["part1"]["acc"]
    assert row["both"]["acc"] == pytest.approx((3 * row["part0"]["acc"] + 7 * row["part1"]["acc"]) / 10)


@pytest.mark.slow
def test_a_task_beyond_the_table_of_positions_has_no_figures(tmp_path: Path, build_tiny: Callable[..., Any]) -> None:
    gpt2, setting = build_tiny("model=gpt2", "context=interpolate").model.build(257, seed=0), of_bytes()
    assert gpt2.last_position(setting.target_length) < 64
    tasks = [written(tmp_path, generation_kwargs={"until": ["\n"], "max_gen_toks": 64}), rolling(tmp_path, 40)]
    row = measured(LmEval(tasks=tasks), gpt2, setting)
    assert row["written"] == {"n": 0}
    assert row["rolling"]["n"] == 1
    assert row["rolling"]["bits_per_byte"] > 0  # in windows within the table


@pytest.mark.slow
@pytest.mark.parametrize(("word", "context"), [("gpt", "yarn"), ("gpt2", "interpolate")])
def test_a_run_measures_tasks_of_the_harness_and_so_does_evaluate(ran: Any, tmp_path: Path, word: str, context: str) -> None:
    says = written(tmp_path, generation_kwargs={"until": ["e"], "max_gen_toks": 40})
    settings = [f"evaluation.lm_eval.tasks=[{choices(tmp_path)},{rolling(tmp_path, 3, 40)},{says}]", "evaluation.lm_eval.limit=4"]
    chosen = "evaluation=[curve,needle,lm_eval]"
    directory, results = ran("run", f"model={word}", "context.curriculum.base.steps=3", f"context={context}", chosen, *settings)
    section = results["lm_eval"]
    assert (section["harness"], section["limit"], section["n"]) == (version("lm-eval"), 4, 4 + 2 + 4)
    assert section["tasks"] == ["choices", "rolling", "written"]
    assert all(section["rolling"][row]["bits_per_byte"] > 0 for row in ("before", "after"))
    # 40 tokens are more than the base's table of positions has.
    assert ("exact_match" in section["written"]["before"]) == (word == "gpt")
    assert section["written"]["after"]["exact_match"] is not None
    again = evaluated(directory.path, tmp_path / "again", "evaluation=[lm_eval]", *settings)["lm_eval"]
    for name in section["tasks"]:
        assert again[name]["after"] == section[name]["after"]
    page = (directory.path / "report.html").read_text()
    assert "<h2>Tasks of the lm-evaluation-harness</h2>" in page
    cells = "".join(f"<td>{Estimate(section['rolling'][row]['bits_per_byte']):.3f}</td>" for row in rows_of(section["rolling"]))
    assert f'<tr><th scope="row">rolling</th><td>1.0</td><td>0</td><td class="words">bits_per_byte</td>{cells}</tr>' in page
    table = terminal_table(results, [LmEval(tasks=["unused"])])
    assert f"lm-evaluation-harness {version('lm-eval')}, 10 documents" in table
    assert re.search(rf"\nrolling +bits_per_byte +.*{section['rolling']['after']['bits_per_byte']:.4g}\n", table)
    assert (re.search(r"\nwritten +exact_match +- ", table) is not None) == (word == "gpt2")
    assert max(map(len, table.splitlines())) <= 100
