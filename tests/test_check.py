"""`elongate-check` verifies a class of the user's own like a built-in one; `elongate-env` describes the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Command

# Its exported parameters divide frequencies by twice the factor that its closed form states.
WRONG = """
from elongate.context.position.pi import PositionInterpolation

class Wrong(PositionInterpolation):
    word = "wrong"

    def rope_parameters(self, rotary, factor):
        return super().rope_parameters(rotary, 2 * factor)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["position.pi.PositionInterpolation", "position.interpolate.Interpolate", "attention.window.Window"])
def test_built_in_strategies_pass(strategy: str, here: Command) -> None:
    fields = ["strategy.window_length=16"] if "window" in strategy else []
    done = here("check", f"strategy=elongate.context.{strategy}", *fields, torch=True)
    assert done.code == 0, done
    assert done.out.count("\nok ") > 3
    assert "failed" not in done.out


@pytest.mark.slow
def test_a_class_of_the_users_own_that_is_wrong_fails(here: Command, tmp_path: Path) -> None:
    (tmp_path / "wrong_strategy.py").write_text(WRONG)
    done = here("check", "strategy=wrong_strategy.Wrong", torch=True)
    assert done.code == 1
    assert "failed  the built model agrees with the closed form" in done.out
    assert "checks failed" in done.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "names no strategy"),
        (["strategy=nowhere.Missing"], "strategy=nowhere.Missing: "),
        (["strategy=elongate.models.gpt.Gpt"], "is neither a Position nor an Attention"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(words: list[str], line: str, here: Command) -> None:
    assert line in here("check", *words, torch=True).reported(2)


def test_the_environment_names_versions_and_no_argument_is_taken(here: Command) -> None:
    done = here("env", torch=True)
    assert done.code == 0
    assert "transformers" in done.out
    assert "torch" in done.out
    assert "takes no arguments" in here("env", "more", torch=True).reported(2)
