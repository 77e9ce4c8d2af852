"""The two scores of RULER, on cases worked out by hand from its paper and scripts."""

from __future__ import annotations

import pytest

from elongate.evaluation.measurement.matching import answer_values, any_named, share_named


@pytest.mark.parametrize(
    ("text", "values", "share"),
    [
        ("The numbers are 12345 and 67890.", ["12345", "67890"], 1.0),
        ("67890", ["12345", "67890"], 0.5),
        ("bado, BUGI", ["Bado", "bugi", "dodo", "kema"], 0.5),
        ("", ["12345"], 0.0),
        ("it is 123456", ["12345"], 1.0),  # a part of a word counts
    ],
)
def test_the_share_of_several_values(text: str, values: list[str], share: float) -> None:
    assert share_named(text, values) == share


@pytest.mark.parametrize(("text", "score"), [("It was the Beatles, I think", 1.0), ("THE FAB FOUR!", 1.0), ("the Stones", 0.0)])
def test_one_of_several_names_is_enough(text: str, score: float) -> None:
    assert any_named(text, ["The Beatles", "the fab four"]) == score


def test_values_are_the_words_of_an_answer() -> None:
    assert answer_values(" 12345, 67890") == ["12345", "67890"]
    assert answer_values(" bado bugi kema") == ["bado", "bugi", "kema"]
