"""Pass keys and questions for tokenizers that merge digits, letters and spaces in ten different ways."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.evaluation.tokenizer_families import FAMILIES, documents, opened, tokenizer_of, words_only

from elongate.data.retrieval.sample import DoesNotFit, Place, build_sample, shortest_length
from elongate.data.retrieval.tasks import TASKS
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.needle import Needle, _keys, _sample_pair
from elongate.evaluation.retrieval import Retrieval
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer


@cache
def held_out(tokenizer: Tokenizer) -> Tokens:
    flat = np.concatenate(tokenizer.encode_batch(list(documents()))).astype(np.uint16)[:5000]
    return Tokens(flat, np.array([0, 5000]))


def setting(tokenizer: Tokenizer, seed: int = 0, reading: Scorer | None = None) -> Setting:
    return Setting(held_out(tokenizer), tokenizer, 256, 512, seed, reading or LeftToRight())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_has_a_wrong_answer_of_the_same_shape(family: str) -> None:
    tokenizer = tokenizer_of(family)
    keys = _keys(setting(tokenizer))
    for seed in range(10):
        given = setting(tokenizer, seed)
        for number in range(8):
            first, second = _sample_pair(given, keys, 128, 0.5, number)
            assert first.answers.shape == second.answers.shape == _sample_pair(given, keys, 128, 0.5, 99)[0].answers.shape
            assert (first.answers[0] != first.answers[1]).any()
            assert len(first.prefix) + first.answers.shape[1] == len(second.prefix) + second.answers.shape[1] == 128
            right, wrong = first.key.strip(), second.key.strip()
            assert all(a != b for a, b in zip(right, wrong, strict=True))
            assert tokenizer.decode(first.prefix).count(right) >= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shortest_length_of_needle_fits_all_samples(family: str) -> None:
    given = setting(tokenizer_of(family))
    keys = _keys(given)
    size = keys.size
    assert Needle(lengths=[size + 1]).header(given)["lengths"] == [size + 1]
    with pytest.raises(ConfigError, match=f"must be between {size + 1} "):
        Needle(lengths=[size]).header(given)
    for number in range(20):
        sample = _sample_pair(given, keys, size + 1, 1.0, number)[0]
        assert len(sample.prefix) + sample.answers.shape[1] == size + 1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_question_has_two_answers_of_equally_many_tokens(family: str) -> None:
    given = setting(tokenizer_of(family))
    for task in TASKS:
        shortest = shortest_length(task, given.tokenizer.encode, 0)
        for length, number in ((shortest, 0), (shortest, 1), (2 * shortest, 2), (1000, 3), (1000, 4)):
            sample = build_sample(Place(task, length, 0.5, number, 0), given.tokenizer.encode, given.held_out.flat)
            assert len(sample.prefix) + sample.answers.shape[1] == length
            assert (sample.answers[0] != sample.answers[1]).any()
            assert sample.problem.answer != sample.problem.wrong


# "superwords" merges the last digits with the full stop.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"superwords"}))
def test_an_answer_has_the_same_tokens_as_in_the_text(family: str) -> None:
    """A model can only copy what it has seen: the needle contains the tokens of the answer, one after the other."""
    given = setting(tokenizer_of(family))
    sample = _sample_pair(given, _keys(given), 200, 0.5, 0)[0]
    size = sample.answers.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(sample.prefix, size)
    assert (windows == sample.answers[0]).all(axis=1).any()


@pytest.mark.slow
def test_a_tokenizer_that_cannot_distinguish_numbers_is_refused_in_one_line() -> None:
    given = setting(opened(words_only()))
    with pytest.raises(ConfigError, match=r"evaluation=\[needle\]: the tokenizer reads all numbers as the same tokens; leave needle out"):
        Needle().header(given)
    with pytest.raises(ConfigError, match=r"evaluation\.retrieval\.tasks=\[copy\]: the tokenizer reads all answers of copy as the same"):
        Retrieval(tasks=["copy"]).header(given)


def test_a_length_that_no_problem_fits_is_refused() -> None:
    encode = tokenizer_of("gpt2").encode
    with pytest.raises(DoesNotFit):
        build_sample(Place("multi_query", 20, 0.5, 0, 0), encode, np.zeros(100, dtype=np.int64))


class Undecided(LeftToRight):
    """Finds every answer equally likely."""

    def answers(self, model: Any, prefix: np.ndarray, choices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(choices.shape[:2]), np.zeros(choices.shape[:2], dtype=bool)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "three digits", "unigram", "wordpiece"])
def test_the_default_needle_is_measured(family: str, model: Any) -> None:
    for seed in range(3):
        given = setting(tokenizer_of(family), seed, Undecided())
        row = Needle(num_samples=2).measure(model, given, lambda text: None)
        assert row["margin"] == [[0.0] * 5] * len(Needle().header(given)["lengths"])
