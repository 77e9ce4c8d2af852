"""The default text with facts and lists: what is added, and what is left alone."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from elongate.data.recall import PASS_KEY, Recall
from elongate.data.source import Document, held_out_documents
from elongate.data.stdlib import Stdlib
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.evaluation.needle import NEEDLE, Keys

FACT = re.compile(r"\nThe ([a-z ]+) is (\d{5})\.\n")
FEW = 12


@pytest.fixture(scope="module", autouse=True)
def short_library():
    """The first modules of the standard library in capitals and without digits, which leaves those to facts and lists."""
    everything = Stdlib.documents
    documents = [Document(one.name, re.sub(r"\d", "#", one.text.upper())) for one in islice(Stdlib().documents(), FEW)]
    Stdlib.documents = lambda self: iter(documents)
    yield
    Stdlib.documents = everything


def training_documents(source: Recall) -> list[tuple[Document, Document]]:
    """Documents of the train split, each with the one of the standard library that it was made from."""
    plain = list(Stdlib().documents())
    held_out = held_out_documents([document.name for document in plain], source.validation_ratio)
    pairs = list(zip(source.documents(), plain, strict=True))
    assert 0 < held_out.sum() < len(pairs)
    return [pair for pair, is_held_out in zip(pairs, held_out, strict=True) if not is_held_out]


def test_same_seed_gives_the_same_texts_and_another_seed_other_ones():
    first, again, other = (list(Recall(seed=seed).documents()) for seed in (0, 0, 1))
    assert first == again
    assert [document.name for document in first] == [document.name for document in other]
    assert first != other


def test_held_out_documents_are_those_of_the_standard_library():
    plain = list(Stdlib().documents())
    held_out = held_out_documents([document.name for document in plain], 0.25)
    found = list(Recall(validation_ratio=0.25).documents())
    assert [a == b for a, b in zip(found, plain, strict=True)] == held_out.tolist()


def test_without_lists_only_facts_are_added_to_the_text():
    rests = []
    for document, plain in training_documents(Recall(list_ratio=0.0)):
        rests.append(FACT.sub("", document.text))
        assert plain.text.startswith(rests[-1])
        assert len(document.text) == pytest.approx(len(plain.text), abs=1024)
    assert sum(map(len, rests)) > 10_000


def test_facts_are_stated_in_the_words_of_the_needle_and_again_and_again():
    assert FACT.fullmatch(NEEDLE.format(key=" 12345"))[1] == PASS_KEY
    stated = Counter(fact for document, _ in training_documents(Recall(num_facts=4)) for fact in FACT.findall(document.text))
    assert np.mean(list(stated.values())) > 3
    share = sum(count for (name, _), count in stated.items() if name == PASS_KEY) / stated.total()
    assert 0.3 < share < 0.8


def test_at_most_that_many_facts_are_stated_at_a_time():
    for document, _ in training_documents(Recall(num_facts=1)):
        assert {name for name, _ in FACT.findall(document.text)} == {PASS_KEY}


def test_lists_repeat_two_numbers_and_two_new_words():
    found = [re.findall(r"\n((?:[a-z0-9]{4,8} ){16,})", document.text) for document, _ in training_documents(Recall())]
    # The last word may be cut off, with a space of the text after it.
    lists = [set(line.split()[:-1]) for lines in found for line in lines]
    assert len(lists) > 50
    assert all(len(words) <= 4 and sum(map(str.isdigit, words)) <= 2 for words in lists)
    assert len(set.union(*lists)) > len(lists) / 2


def test_keys_of_the_evaluation_do_not_occur_in_training():
    trained = {number for document, _ in training_documents(Recall()) for _, number in FACT.findall(document.text)}
    keys, draws = Keys(ByteTokenizer().encode), np.random.default_rng(0).integers(2**62, size=500).tolist()
    measured = {key.strip() for draw in draws for key in keys.pair(draw)}
    assert len(trained) > 100
    assert len(measured) > 500
    assert not trained & measured
    assert all(sum(map(int, key)) % 2 == 0 for key in trained)
    assert all(sum(map(int, key)) % 2 == 1 for key in measured)


@pytest.mark.parametrize(
    "settings",
    [{"num_facts": 0}, {"text_ratio": -0.1}, {"list_ratio": 1.0}, {"list_ratio": float("nan")}, {"list_ratio": 0.5, "text_ratio": 0.5}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Recall(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"num_facts": 8}, {"text_ratio": 0.5}, {"list_ratio": 0.1}, {"seed": 1}, {"validation_ratio": 0.2}])
def test_the_fingerprint_depends_on_every_setting_that_changes_texts(settings):
    assert Recall(**settings).fingerprint() != Recall().fingerprint()
    assert Recall(cache="elsewhere").fingerprint() == Recall().fingerprint()
