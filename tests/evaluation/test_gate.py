"""A gate closes only if a figure is worse by more than allowed, and not by chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import evaluated
from tests.evaluation.conftest import Run

from elongate.errors import ConfigError
from elongate.evaluation.gate import Gate
from elongate.evaluation.measurement.samples import Samples

N = 40


def samples(
    losses: np.ndarray | None = None, answers: np.ndarray | None = None, row: str = "after", into: Samples | None = None
) -> Samples:
    """Documents of 100 tokens with these mean losses, and answers that are right or wrong."""
    found = Samples() if into is None else into
    if losses is not None:
        part = {"within_original": True, "near_tokens": 100}
        found.part("curve", row).add({f"{i}": part | {"text": f"c{i}", "near_loss": 100 * float(loss)} for i, loss in enumerate(losses)})
    if answers is not None:
        found.part("retrieval", row).add(
            {f"{i}": {"within_original": True, "text": f"r{i}", "preferred": bool(right)} for i, right in enumerate(answers)}
        )
    return found


class Seed:
    seed = 0


def concluded(before: dict[str, Any], after: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return Gate(**fields).conclude(samples(**after, into=samples(**before, row="before")), Seed())  # type: ignore[arg-type]


BASE = np.random.default_rng(0).normal(2, 0.5, size=N)
NOISE = np.random.default_rng(1).normal(0, 0.02, size=N)


@pytest.mark.parametrize(("rise", "passed"), [(-0.3, True), (0.0, True), (0.04, True), (0.06, False), (0.5, False)])
def test_a_loss_may_rise_by_the_margin(rise: float, passed: bool) -> None:
    found = concluded({"losses": BASE}, {"losses": BASE + NOISE - NOISE.mean() + rise})
    assert found["loss"]["rise"] == pytest.approx(rise, abs=1e-9)
    low, high = found["loss"]["interval"]
    # Pairs remove the difference between documents, half a nat, so a hundredth is visible.
    assert low < rise < high < low + 0.03
    assert found["passed"] is found["loss"]["passed"] is passed


def test_a_rise_that_may_be_chance_does_not_close_the_gate() -> None:
    wild = np.random.default_rng(2).normal(0, 2, size=N)
    found = concluded({"losses": BASE}, {"losses": BASE + wild - wild.mean() + 0.1})
    assert found["loss"]["rise"] == pytest.approx(0.1)
    assert found["passed"]


def test_documents_are_weighted_by_their_tokens() -> None:
    found = Samples()
    for row, losses in (("before", (100.0, 10.0)), ("after", (100.0, 21.0))):
        for i, (loss, tokens) in enumerate(zip(losses, (100, 10), strict=True)):
            found.part("curve", row).add({f"{i}": {"text": f"{i}", "within_original": True, "near_loss": loss, "near_tokens": tokens}})
    assert Gate().conclude(found, Seed())["loss"]["rise"] == pytest.approx(11 / 110)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lost", "won", "p", "passed"),
    [(0, 0, 1.0, True), (5, 0, 2 * 0.5**5, True), (6, 0, 2 * 0.5**6, False), (9, 3, 2 * 299 / 4096, True), (0, 10, 2 * 0.5**10, True)],
)
def test_lost_answers_are_compared_with_won_ones(lost: int, won: int, p: float, passed: bool) -> None:
    before = np.array([True] * lost + [False] * won + [True] * (N - lost - won))
    after = np.array([False] * lost + [True] * won + [True] * (N - lost - won))
    found = concluded({"answers": before}, {"answers": after})["answers"]
    assert (found["lost"], found["won"], found["fall"]) == (lost, won, (lost - won) / N)
    assert found["p"] == pytest.approx(p)  # of the binomial distribution, both tails, by hand
    assert found["passed"] is passed


def test_other_samples_are_not_compared() -> None:
    there = samples(losses=BASE, row="before")
    ours = {f"{i}": {"text": "another", "within_original": True, "near_loss": 1.0, "near_tokens": 1} for i in range(N)}
    there.part("curve", "after").add(ours)
    with pytest.raises(ConfigError, match=r"evaluation\.gate\.base=null: has no samples in common with this model"):
        Gate().conclude(there, Seed())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="names no other model, and there is none from before an extension here"):
        Gate().conclude(samples(losses=BASE), Seed())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"base": "nowhere"},
            "evaluation.gate.base=nowhere: contains no samples.jsonl: it is not the folder of a run or an evaluation; evaluate",
        ),
        ({"loss_margin": -1}, "evaluation.gate.loss_margin=-1: must be at least 0 nats; use evaluation.gate.loss_margin=0.05"),
        ({"share_margin": 5}, "evaluation.gate.share_margin=5: must be between 0 and 1"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Gate(**fields)
    assert str(caught.value.inside("evaluation.gate")).startswith(line)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_is_compared_with_itself_before_the_extension_and_with_another_run(finished: Run, tmp_path: Path) -> None:
    gate = finished.results["gate"]
    near = finished.results["curve"]["table"]
    # Original length 32: the first two columns.
    rise = sum(w * (near["after"]["loss"][i] - near["before"]["loss"][i]) for i, w in ((0, 7), (1, 24))) / 31
    assert gate["loss"]["rise"] == pytest.approx(rise, abs=1e-9)
    assert "answers" not in gate  # 64 tokens are beyond the original length
    assert f"{gate['loss']['rise']:.3f} nats" in (finished.path / "report.html").read_text()
    again = evaluated(
        finished.path,
        tmp_path / "again",
        "evaluation=[curve,gate]",
        "evaluation.curve.num_sequences=4",
        f"evaluation.gate.base={finished.path}",
    )
    assert again["gate"]["loss"]["rise"] == pytest.approx(0, abs=1e-6)
    assert again["gate"]["passed"]
    closed = json.loads(json.dumps(gate)) | {"passed": False}
    assert str(Gate().failure(closed)).startswith("Gate closed: within 32 tokens, against before, the loss rose by ")
