"""A new evaluation, one dataclass and one YAML file, is shown everywhere; heat maps have one scale."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tests.report.fake import fake_config, fake_results, write_run

from elongate.build import build_evaluations
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.needle import Needle
from elongate.evaluation.presentation.needle import preference
from elongate.evaluation.presentation.numbers import leaves
from elongate.evaluation.retrieval import Retrieval
from elongate.report.figures import draw
from elongate.report.page import write_report
from elongate.report.scalars import scalars
from elongate.report.table import terminal_table


@dataclass(frozen=True, kw_only=True)
class WordCount(Evaluation):
    """A toy evaluation that overrides nothing of how it is shown."""

    share: float = 0.5

    word: ClassVar[str] = "word_count"

    def header(self, setting: Setting) -> dict[str, Any]:
        return {"n": 12}

    def measure(self, model: Any, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        return {"ratio": self.share, "ratio_standard_error": 0.125, "words": 3400, "unread": None}


YAML = """
# @package evaluation.word_count
_target_: tests.evaluation.test_presentation.WordCount
share: 0.75
"""


LEAVES = st.none() | st.integers() | st.text("a/é")  # of a few letters: the table of all takes seconds to make


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Path, dict[str, Any], tuple[Evaluation, ...]]:
    evaluations = build_evaluations(OmegaConf.create({"word_count": OmegaConf.create(YAML)}))
    setting: Any = None
    section = evaluations[0].header(setting) | {"after": evaluations[0].measure(None, setting, print)}
    results = fake_results() | {"word_count": section}
    return write_run(tmp_path / "run", results, fake_config("yarn", 0)), results, evaluations


def test_a_new_evaluation_is_in_the_terminal_on_the_page_and_in_the_tracker(toy: Any) -> None:
    directory, results, evaluations = toy
    table = terminal_table(results, evaluations)
    assert "Word count\n\nrow     ratio           words   unread\nafter   0.750 ± 0.125   3,400   –" in table
    write_report(directory, evaluations)
    page = (directory / "report.html").read_text()
    assert "<h2>Word count</h2>" in page
    assert '<tr><th scope="row">after</th><td>0.750 ± 0.125</td><td>3,400</td><td>–</td></tr>' in page
    found = scalars(results, evaluations)
    assert (found["word_count/n"], found["word_count/after/ratio"], found["word_count/after/words"]) == (12, 0.75, 3400)
    assert "word_count/after/unread" not in found


def test_only_the_chosen_evaluations_are_shown(toy: Any) -> None:
    directory, results, evaluations = toy
    write_report(directory, evaluations)
    assert re.findall("<h2>(.*?)</h2>", (directory / "report.html").read_text())[0] == "Word count"
    assert "Needle" not in terminal_table(results, evaluations)


def test_a_tracker_gets_every_figure_by_its_path() -> None:
    results = fake_results("yarn", shift=0.0)
    found = scalars(results, [Needle()])
    assert found["strategy/factor"] == 4.0
    assert found["strategy/proof/attention_factor"] == 1.1386
    assert found["budget/base/steps"] == 600
    margins = results["needle"]["after"]["margin"][2]
    assert found["needle/after/margin/1024"] == pytest.approx(sum(margins) / len(margins))
    assert not [path for path in found if isinstance(found[path], list)]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.dictionaries(st.text("ab", min_size=1), inner), max_leaves=8))
def test_leaves_are_the_values_of_the_tree_by_path(tree: Any) -> None:
    for path, value in leaves({"root": tree}).items():
        node = {"root": tree}
        for key in path.split("/"):
            node = node[key]
        assert node == value


def test_heat_maps_have_the_same_scale_in_every_run() -> None:
    scales = set()
    for context in ("none", "yarn"):
        figure = draw(Needle().figures(fake_results(context)["needle"])[0].drawing)
        scales |= {(axes.images[0].norm.vmin, axes.images[0].norm.vmax) for axes in figure.axes if axes.images}
    assert scales == {(0.0, 1.0)}


def test_noise_is_pale() -> None:
    """Margins of a tenth of a nat, as of a model that finds nothing, are near the white middle of the scale."""
    needle = fake_results()["needle"]
    for row in ("before", "after"):
        needle[row]["margin"] = [[0.1 * (-1) ** (i + j) for j in range(5)] for i in range(4)]
    image = draw(Needle().figures(needle)[0].drawing).axes[0].images[0]
    colours = image.cmap(image.norm(image.get_array().filled(0.5)))
    assert colours[..., :3].min() > 0.9


def test_the_preference_is_the_probability_of_a_choice_between_two() -> None:
    assert preference(0.0) == 0.5
    assert preference(2.0) == pytest.approx(1 / (1 + 2.718281828459045**-2.0))
    assert preference(-800.0) == pytest.approx(0.0)
    assert preference(1.3) + preference(-1.3) == pytest.approx(1.0)


def test_a_heat_map_of_tasks_has_the_names_of_the_tasks() -> None:
    section = {
        "original_length": 64,
        "target_length": 128,
        "tasks": ["key_value"],
        "lengths": [64, 128],
        "key_value": {"after": {"preferred": [1.0, 0.5], "exact_match": [0.5, None]}},
    }
    axes = draw(Retrieval().figures(section)[0].drawing).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["key value"]
    assert [text.get_text() for text in axes.texts] == ["50", "–"]


def test_provenance_is_on_the_page(tmp_path: Path) -> None:
    provenance = {"command": "python train.py seed=1", "versions": {"torch": "2.13", "elongate": "0.2"}}
    results = json.loads(json.dumps(fake_results())) | {"provenance": provenance}
    directory = write_run(tmp_path / "run", results, fake_config("yarn", 0))
    write_report(directory, [])
    page = (directory / "report.html").read_text()
    assert '<th scope="row">command</th><td>python train.py seed=1</td>' in page
    assert "<td>torch 2.13, elongate 0.2</td>" in page
    assert "trained on stdlib for 60 steps, 491,520 tokens" in page
