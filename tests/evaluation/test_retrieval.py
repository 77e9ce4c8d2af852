"""Retrieval: scores of one forward pass over the whole text, resumption, effective lengths, controls and costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import evaluated
from tests.evaluation.conftest import EVALUATIONS, Run

from elongate.data.retrieval.sample import Place, build_sample
from elongate.data.retrieval.tasks import TASKS
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError, Stopped
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.measurement.intervals import share_interval
from elongate.evaluation.measurement.samples import Samples
from elongate.evaluation.retrieval import Retrieval
from elongate.report.scalars import scalars
from elongate.scoring.fill_in import FillIn
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer


@pytest.fixture
def setting() -> Setting:
    flat = np.random.default_rng(0).integers(97, 123, size=5000).astype(np.uint16)
    return Setting(Tokens(flat, np.array([0, 5000])), ByteTokenizer(), 300, 600, seed=0, reading=LeftToRight())


class Oracle(Scorer):
    """Writes the right answer after texts of up to `reach` tokens, the wrong one after others."""

    def __init__(self, reach: int, writes_down: str = "") -> None:
        self.reach, self.writes_down = reach, writes_down

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> np.ndarray:
        raise AssertionError

    def continuation(self, model: Any, prefixes: np.ndarray, num_tokens: int, stop: Any) -> Any:
        return [np.frombuffer(self.writes_down.encode(), dtype=np.uint8).astype(np.int64) for _ in prefixes]

    def answers(self, model: Any, prefix: np.ndarray, choices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right = np.full((len(prefix), 2), prefix.shape[1] + choices.shape[2] <= self.reach)
        right[:, 1] = ~right[:, 0]
        return np.where(right, -1.0, -2.0), right


def ticked(text: str) -> None:
    pass


def measured(setting: Setting, model: Any, reach: int, **fields: Any) -> tuple[dict[str, Any], Oracle]:
    reading = Oracle(reach)
    return Retrieval(**fields).measure(model, afresh(setting, reading), ticked), reading


def afresh(setting: Setting, reading: Scorer) -> Setting:
    """The setting without measured samples."""
    return replace(setting, reading=reading, samples=Samples().part("retrieval", "after"))


def test_scores_equal_those_of_one_forward_pass(setting: Setting, model: Any) -> None:
    samples = Samples()
    Retrieval(tasks=["single"], lengths=[150], depths=[0.5], num_samples=3).measure(
        model, replace(setting, samples=samples.part("r", "after")), ticked
    )
    for number in range(3):
        sample = build_sample(Place("single", 150, 0.5, number, 0), setting.tokenizer.encode, setting.held_out.flat)
        record = samples.get(("r", "after", f"single/none/150/0.5/{number}"))
        assert record is not None
        for answer, key in zip(sample.answers, ("log_probability", "log_probability_of_wrong"), strict=True):
            tokens = torch.from_numpy(np.concatenate([sample.prefix, answer]))[None]
            with torch.no_grad():
                chances = model.network(tokens).logits[0].log_softmax(-1)
            n = len(answer)
            assert record[key] == pytest.approx(chances[-n - 1 : -1].gather(1, tokens[0, -n:, None]).sum().item(), abs=1e-9)
        assert record["preferred"] == (record["log_probability"] > record["log_probability_of_wrong"])
        assert record["depth"] == sample.depth


@pytest.mark.slow
def test_the_effective_length_is_the_last_one_above_the_threshold(setting: Setting, model: Any) -> None:
    row, _ = measured(setting, model, 600, num_samples=5)
    for task in TASKS:
        assert row[task]["exact_match"] == [1.0, 1.0, 0.0, 0.0]  # 300, 600, 1200 and 2400 tokens
        assert row[task]["effective_length"] == {"exact_match": 600, "preferred": 600}
    # Ten out of ten are not certainly above 85.6%: the lower end of Wilson's interval is 72%.
    few, _ = measured(setting, model, 600, num_samples=2)
    assert few["single"]["exact_match"] == [1.0, 1.0, 0.0, 0.0]
    assert few["single"]["exact_match_interval"][0] == pytest.approx([0.722, 1.0], abs=1e-3)
    assert few["single"]["effective_length"]["exact_match"] == 0
    assert (few["single"]["enough_samples"]["exact_match"], row["single"]["enough_samples"]["exact_match"]) == (False, True)
    assert few["all"]["enough_samples"]["exact_match"]
    # All ten tasks together are a hundred samples: 96.3%.
    assert few["all"]["exact_match_interval"][0] == pytest.approx([0.963, 1.0], abs=1e-3)
    assert few["all"]["effective_length"]["exact_match"] == 600
    assert few["all"]["without_haystack"]["exact_match"] == [1.0]


def test_a_longer_length_does_not_compensate_for_a_shorter_one(setting: Setting, model: Any) -> None:
    evaluation = Retrieval(lengths=[300, 600])
    row = {"exact_match": [0.5, 1.0], "exact_match_interval": [(0.4, 0.6), (0.95, 1.0)]}
    assert evaluation._effective([300, 600], row, "exact_match") == 0
    row = {"exact_match": [0.5, 0.5], "exact_match_interval": [(0.44, 0.56), (0.42, 0.6)]}
    assert Retrieval(threshold="nolima")._effective([300, 600], row, "exact_match") == 300  # 0.85 × 0.5 is 0.425


def test_controls_are_measured_and_do_not_count(setting: Setting, model: Any) -> None:
    row, _ = measured(setting, model, 200, tasks=["passkey"], num_samples=1)
    assert row["passkey"]["exact_match"] == [0.0] * 4
    assert row["passkey"]["without_needle"]["exact_match"] == [0.0] * 4
    assert row["passkey"]["without_haystack"]["exact_match"] == [1.0]
    assert "all" not in row


@pytest.mark.slow
def test_the_row_of_all_tasks_is_the_mean_of_all_samples(setting: Setting, model: Any) -> None:
    row = Retrieval(tasks=["passkey", "key_value", "copy"], lengths=[150, 300], num_samples=2).measure(model, setting, ticked)
    for measure in ("preferred", "exact_match", "log_probability"):
        apart = np.mean([row[task][measure] for task in ("passkey", "key_value", "copy")], axis=0)
        assert row["all"][measure] == pytest.approx(list(apart))
    by_depth = np.mean([row[task]["preferred_by_depth"] for task in ("passkey", "key_value", "copy")], axis=0)
    np.testing.assert_allclose(row["all"]["preferred_by_depth"], by_depth)


def test_values_are_searched_in_the_written_text(setting: Setting, model: Any) -> None:
    """RULER's string_match_all: the share of the values that occur anywhere in the text, in upper or lower case."""
    sample = build_sample(Place("multi_query", 300, 0.0, 0, 0), setting.tokenizer.encode, setting.held_out.flat)
    first, second = sample.problem.answer.strip().split(", ")
    for text, share in ((f"{second} or {first}", 1.0), (f"it is {first}.", 0.5), ("none", 0.0)):
        reading = Oracle(0, writes_down=text)
        fields = {"tasks": ["multi_query"], "lengths": [300], "depths": [0.0], "num_samples": 1, "generate": True}
        row = Retrieval(**fields).measure(model, afresh(setting, reading), ticked)["multi_query"]
        assert row["named"] == [share]
        assert row["exact_match"] == [0.0]
        assert row["named_interval"] == [share_interval(int(share), 1)]


def test_generation_needs_a_model_that_can_generate_text(setting: Setting) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.retrieval\.generate=true: needs a model that can generate text"):
        Retrieval(generate=True).header(replace(setting, reading=FillIn(0.15)))


@pytest.mark.slow
def test_generation_ends_at_the_end_of_the_table_of_positions(setting: Setting, build_tiny: Callable[..., Any]) -> None:
    model = build_tiny("model=gpt2", "model.original_length=150", "context.target_length=600", "batch_tokens=600").model.build(257, seed=0)
    evaluation = Retrieval(tasks=["copy"], lengths=[140, 150, 200], depths=[0.5], num_samples=1, generate=True)
    row = evaluation.measure(model, setting, ticked)["copy"]
    assert [named is None for named in row["named"]] == [exact is None for exact in row["exact_match"]] == [False, False, True]


def test_costs_are_those_of_the_prefills(setting: Setting, model: Any) -> None:
    """FLOPs against a count by hand of the matrix products and of half the square of attention."""
    row = Retrieval(tasks=["copy"], lengths=[150, 300], depths=[0.5], num_samples=3).measure(model, setting, ticked)["copy"]
    config, size = model.network.config, 8  # letters of the answer
    per_token = 2 * sum(p.numel() for name, p in model.network.named_parameters() if "layers" in name and p.dim() == 2)
    head = 2 * config.hidden_size * config.vocab_size
    for length, cost in zip((150, 300), row["costs"], strict=True):
        prefix, rest = length - size, 2 * (size - 1)  # one prefill, then all letters but the last of both answers
        pairs = prefix**2 // 2 + rest * (prefix + (size - 1))
        by_hand = (prefix + rest) * per_token + 2 * size * head + config.num_hidden_layers * 4 * pairs * config.hidden_size
        assert cost["flops"] == pytest.approx(3 * by_hand, rel=0.02)
        assert cost["tokens_per_second"] == pytest.approx(3 * prefix / cost["seconds"])
        assert cost["peak_memory_bytes"] > 2**20
        assert cost["seconds_per_right"] is None  # an untrained model gets none right
    always, _ = measured(setting, model, 1000, tasks=["copy"], lengths=[300], num_samples=2)
    assert always["copy"]["costs"][0]["seconds_per_right"] == pytest.approx(always["copy"]["costs"][0]["seconds"] / 10)


@pytest.mark.slow
def test_a_length_beyond_the_table_of_positions_has_no_figure(setting: Setting, build_tiny: Callable[..., Any]) -> None:
    model = build_tiny("model=gpt2", "model.original_length=300", "context.target_length=600", "batch_tokens=600").model.build(257, seed=0)
    row = Retrieval(tasks=["copy"], lengths=[300, 600], depths=[0.5], num_samples=1).measure(model, setting, ticked)["copy"]
    assert row["exact_match"][1] is row["exact_match_interval"][1] is None
    assert row["exact_match"][0] in (0.0, 1.0)
    json.dumps(row, allow_nan=False)


def test_a_stopped_measurement_resumes_with_the_same_result(setting: Setting, model: Any, tmp_path: Path) -> None:
    fields = {"tasks": ["passkey", "copy"], "lengths": [150, 300], "num_samples": 2}
    whole, _ = measured(setting, model, 200, **fields)
    file = tmp_path / "samples.jsonl"
    reading, left = Oracle(200), 7

    def stops(text: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stopped("enough")

    part = replace(setting, reading=reading, samples=Samples(file).part("retrieval", "after"))
    with pytest.raises(Stopped):
        Retrieval(**fields).measure(model, part, stops)
    first = file.read_text()
    with file.open("a") as stream:
        stream.write('{"evaluation": "retr')  # the program was killed while writing
    again = replace(setting, reading=reading, samples=Samples(file).part("retrieval", "after"))
    row = Retrieval(**fields).measure(model, again, ticked)
    assert file.read_text().startswith(first)  # earlier samples were not measured again
    for result in (*row.values(), *whole.values()):
        del result["costs"]
    assert row == whole
    records = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert len(records) == 2 * (2 * 5 * 2 + 2 * 2 + 5 * 2)  # by length and depth, and the two controls
    assert {"answer", "depth_asked", "depth", "exact_match", "flops", "log_probability", "seconds", "seed", "tokens"} <= records[0].keys()


def test_samples_of_another_measurement_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    Samples(file, "one").part("retrieval", "after").add({"a": {"score": 1}})
    assert Samples(file, "one").part("retrieval", "after").get("a") is not None
    assert Samples(file, "one").part("retrieval", "before").get("a") is None
    assert Samples(file, "other").part("retrieval", "after").get("a") is None
    assert Samples(file, "one").part("retrieval", "after").get("a") is None


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"tasks": ["passky"]}, "evaluation.retrieval.tasks=[passky]: must be of passkey, single, "),
        ({"tasks": []}, "evaluation.retrieval.tasks=[]: must be of "),
        ({"tasks": ["copy", "copy"]}, "evaluation.retrieval.tasks=[copy,copy]: must be of "),
        ({"depths": [0.5, 0.5]}, "evaluation.retrieval.depths=[0.5,0.5]: must be one or more different depths between 0 and 1"),
        ({"num_samples": 0}, "evaluation.retrieval.num_samples=0: must be at least 1; use evaluation.retrieval.num_samples=2"),
        ({"depths": [1.5]}, "evaluation.retrieval.depths=[1.5]: must be one or more different depths between 0 and 1"),
        ({"lengths": [600, 300]}, "evaluation.retrieval.lengths=[600,300]: must be one or more lengths of at least 1, the shortest first"),
        ({"threshold": "high"}, "evaluation.retrieval.threshold=high: must be one of ruler, nolima"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Retrieval(**fields)
    assert str(caught.value.inside("evaluation.retrieval")).startswith(line)


def test_a_too_short_length_is_refused_with_the_length_that_the_task_needs(setting: Setting) -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation\.retrieval\.lengths=\[20\]: must be between 46 \(passkey\) and 5000 \(the held-out text\)"
    ):
        Retrieval(tasks=["passkey"], lengths=[20]).header(setting)
    with pytest.raises(ConfigError, match=r"and 5000 \(the held-out text\)"):
        Retrieval(tasks=["passkey"], lengths=[300, 6000]).header(setting)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_shows_every_figure_and_evaluate_measures_the_same(finished: Run, tmp_path: Path) -> None:
    section = finished.results["retrieval"]
    assert (section["n"], section["tasks"], section["lengths"]) == (2, ["passkey", "copy"], [64, 128])
    page, lines = (finished.path / "report.html").read_text(), (finished.path / "retrieval.csv").read_text().splitlines()
    assert "<h2>Retrieval</h2>" in page
    assert len(lines) == 1 + 3 * 3 * 2  # task, and both together × row × length
    assert "time for each answer written exactly" in page
    flat = scalars(finished.results, [Retrieval()])
    for row in ("before", "untuned", "after"):
        for task in ("passkey", "copy"):
            for length, share in zip((64, 128), section[task][row]["preferred"], strict=True):
                assert flat[f"retrieval/{task}/{row}/preferred/{length}"] == share
                assert f"{100 * share:.0f}%" in page
                assert f"{100 * share:.0f}" in finished.table
    records = [json.loads(line) for line in (finished.path / "samples.jsonl").read_text().splitlines()[1:]]
    # Three rows of two tasks: two lengths at two depths, these without needles at one, and one without haystack at two.
    assert sum(record["evaluation"] == "retrieval" for record in records) == 3 * 2 * (2 * 2 + 2 + 2)
    words = [word for word in EVALUATIONS if word.startswith("evaluation.retrieval")]
    again = evaluated(finished.path, tmp_path / "again", "evaluation=[retrieval]", *words)
    for task in ("passkey", "copy"):
        for measure in ("preferred", "exact_match", "effective_length"):
            assert again["retrieval"][task]["after"][measure] == section[task]["after"][measure]
