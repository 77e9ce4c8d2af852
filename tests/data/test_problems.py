"""Retrieval problems: a reader finds the answer, without the needles nobody can, and every length and depth is exact."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from elongate.data.retrieval.problem import Draw
from elongate.data.retrieval.retrieval import Retrieval
from elongate.data.retrieval.sample import DoesNotFit, Place, Sample, build_sample, shortest_length
from elongate.data.retrieval.tasks import TASKS
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError

TOKENIZER = ByteTokenizer()
SENTENCE = "A plain sentence with no digits occurs here, again and again.\n"
HAYSTACK = np.frombuffer((SENTENCE * 200).encode(), np.uint8).astype(np.int64)
LONG = 400  # bytes; every task fits into it


def sample(task: str, length: int = LONG, depth: float = 0.5, number: int = 0, seed: int = 0, **more: str) -> Sample:
    control = more.pop("control", "none")
    place = Place(task, length, depth, number, seed, **more)  # type: ignore[arg-type]
    return build_sample(place, TOKENIZER.encode, HAYSTACK, control)  # type: ignore[arg-type]


def text_of(found: Sample) -> str:
    return TOKENIZER.decode(found.prefix)


def read_answer(task: str, text: str) -> str:
    """The answer, found by reading the text only."""
    body, _, question = text.rpartition("\n")
    if task == "passkey":
        return " " + re.findall(r"pass key is (\d{5})\.", body)[0]
    if task in ("single", "multi_key"):
        name = question.split()[3]
        return " " + re.findall(rf"number of {name} is (\d{{5}})\.", body)[0]
    if task == "multi_value":
        return " " + ", ".join(re.findall(rf"number of {question.split()[3]} is (\d{{5}})\.", body))
    if task == "multi_query":
        names = re.fullmatch(r"The numbers of (\w+) and (\w+) are", question)
        assert names
        return " " + ", ".join(re.findall(rf"number of {name} is (\d{{5}})\.", body)[0] for name in names.groups())
    if task == "key_value":
        return " " + re.findall(rf"value of {question.split()[3]} is (\d{{5}})\.", body)[0]
    if task == "variable_tracking":
        values = dict(re.findall(r"let (\w+) be (\w+)", body))
        value = question.split()[3]
        while value in values:
            value = values[value]
        return " " + value
    if task in ("common_words", "frequent_words"):
        words = re.findall(r"\b[bdfgklmnprstvz][aeiou](?:[bdfgklmnprstvz][aeiou]){2}\b", body)
        ranked = sorted(set(words), key=lambda word: -words.count(word))
        wanted = ranked[:1] if task == "common_words" else ranked[:3]
        counts = [words.count(word) for word in ranked[: len(wanted) + 1]]
        assert sorted(counts, reverse=True) == counts
        assert len(set(counts)) == len(counts), "no two are as common as each other"
        return " " + " ".join(wanted)
    assert task == "copy"
    return re.findall(rf"\n{question}(\w+)\n", body + "\n")[0]


@pytest.mark.parametrize("length", [LONG, 1500])
@pytest.mark.parametrize("task", TASKS)
def test_a_reader_finds_the_answer_in_a_text_of_exact_length(task: str, length: int) -> None:
    for number in range(5):
        found = sample(task, length, number=number)
        assert len(found.prefix) + found.answers.shape[1] == length
        right, wrong = (TOKENIZER.decode(answer) for answer in found.answers)
        assert read_answer(task, text_of(found)) == right == found.problem.answer
        assert wrong != right


@pytest.mark.parametrize("task", ["common_words", "frequent_words"])
def test_the_shortest_lists_of_words_have_others_and_no_word_is_glued_to_another(task: str) -> None:
    shortest = shortest_length(task, TOKENIZER.encode, 0)
    for length in range(shortest, 384, 7):
        for depth in (0.0, 0.5, 1.0):
            found = sample(task, length, depth, number=length)
            text = text_of(found)
            assert read_answer(task, text) == found.problem.answer
            words = re.findall(r"[a-z]+", text.rpartition("\n")[0])
            named = {word.strip() for word in (*found.problem.needles, *found.problem.items)}
            # What hides the needles is whole words too; only ordinary text before them may begin within a word.
            assert len(named & set(words)) > (1 if task == "common_words" else 3), "no other words"
            assert all(words.count(word.strip()) >= found.problem.needles.count(word) for word in found.problem.needles)


@pytest.mark.parametrize("task", TASKS)
def test_without_needles_the_text_is_as_long_and_lacks_the_answer(task: str) -> None:
    found = sample(task, control="without_needle")
    assert len(found.prefix) + found.answers.shape[1] == LONG
    body = text_of(found).rpartition("\n")[0]
    for answer in re.findall(r"\w+", found.problem.answer):
        assert answer not in body


@pytest.mark.parametrize("task", TASKS)
def test_without_a_haystack_only_needles_and_question_are_left(task: str) -> None:
    found = sample(task, control="without_haystack")
    assert text_of(found).replace("\n", "") == ("".join(found.problem.needles) + found.problem.query).replace("\n", "")
    shortest = len(found.prefix) + found.answers.shape[1]
    with pytest.raises(DoesNotFit) as caught:
        sample(task, 10)
    assert caught.value.shortest <= shortest


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_reported_shortest_length_fits_and_a_shorter_one_does_not(task: str) -> None:
    with pytest.raises(DoesNotFit) as caught:
        sample(task, 10)
    shortest = caught.value.shortest
    with pytest.raises(DoesNotFit):
        sample(task, shortest - 1)
    assert len(sample(task, shortest).prefix) > 0


@pytest.mark.parametrize("task", TASKS)
def test_the_needle_is_at_the_requested_depth(task: str) -> None:
    found = {depth: sample(task, 1500, depth).depth for depth in (0.0, 0.5, 1.0)}
    assert found[0.0] < 0.15 < found[0.5] < 0.85
    assert found[0.0] < found[0.5] < found[1.0]
    if len(sample(task, 1500).problem.needles) == 1:
        assert found[0.5] == pytest.approx(0.5, abs=0.05)
    whole = sample(task, 1500, 0.5)
    needle = whole.problem.needles[0]
    assert text_of(whole)[round(whole.depth * len(whole.prefix)) :].startswith(needle)


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_depends_on_its_place_only(task: str) -> None:
    assert text_of(sample(task)) == text_of(sample(task))
    texts = {text_of(sample(task, number=number, seed=seed)) for number in range(3) for seed in range(3)}
    assert len(texts) == 9


def test_training_and_evaluation_share_no_number_and_no_word() -> None:
    found: dict[str, set[str]] = {}
    for split in ("train", "evaluation"):
        draw = Draw(np.random.default_rng(0), split, 100, len)  # type: ignore[arg-type]
        found[split] = {*draw.numbers(2000), *(word for _ in range(10) for word in draw.words(400))}
        assert all(len(word) in (5, 6) for word in found[split])
    assert len(found["train"]) > 4000
    assert not found["train"] & found["evaluation"]


@pytest.mark.slow
def test_numbers_are_uniform() -> None:
    """All digits after the first are equally likely."""
    draw = Draw(np.random.default_rng(0), "evaluation", 100, len)
    numbers = [draw.number() for _ in range(20_000)]
    assert all(sum(map(int, number)) % 2 for number in numbers)
    for place in range(1, 5):
        counts = np.bincount([int(number[place]) for number in numbers], minlength=10)
        assert abs(counts - 2000).max() < 5 * (2000 * 0.9) ** 0.5


def test_training_texts_end_in_their_answers_and_share_none_with_evaluation() -> None:
    source = Retrieval(num_documents=20, num_characters=500)
    documents = list(source.documents())
    assert len({document.name for document in documents}) == len(documents) == 20
    assert all(len(document.text) == 500 for document in documents)
    for document in documents:
        task = document.name.split()[0]
        body, newline, question = document.text.rpartition("\n")
        if task == "copy":
            assert question in body  # the beginning of the row, and the end that follows it
            continue
        answer = read_answer(task, body + newline + re.split(r"(?<= is)|(?<= are)", question)[0])
        assert document.text.endswith(answer)
    asked = {number for i in range(50) for number in re.findall(r"\d{5}", sample("multi_key", number=i).problem.answer)}
    assert not any(number in document.text.split() for document in documents for number in asked)


@pytest.mark.slow
def test_training_texts_are_the_same_for_the_same_settings() -> None:
    first, again, other = (Retrieval(num_documents=10, num_characters=500, seed=seed) for seed in (0, 0, 1))
    texts, same, different = ([document.text for document in source.documents()] for source in (first, again, other))
    assert texts == same != different
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.fingerprint() != Retrieval(num_documents=10, num_characters=501).fingerprint()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"tasks": ["pass"]}, "data.tasks=[pass]: must be among passkey, single"),
        ({"num_documents": 1}, "data.num_documents=1: must be at least 2: one is held out"),
        ({"num_characters": 0}, "data.num_characters=0: must be between 1 and 1000000; use data.num_characters=4096"),
        (
            {"num_characters": 100, "tasks": ["multi_query"]},
            "data.num_characters=100: is too small for multi_query, which needs 242 characters; use data.num_characters=484",
        ),
    ],
)
def test_impossible_training_texts_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(Retrieval(**fields).documents())
    assert str(caught.value.inside("data")).startswith(line)
