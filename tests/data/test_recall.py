"""The default text with pass keys and word lists: what is added, and what is left alone."""

from __future__ import annotations

import re
from itertools import islice, pairwise

import numpy as np
import pytest

from elongate.data.recall import Recall
from elongate.data.source import Document, held_out_documents
from elongate.data.stdlib import Stdlib
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.evaluation.needle import Keys

STATEMENT = re.compile(r"\nThe pass key is (\d{5})\.\n")
FEW = 12


@pytest.fixture(scope="module", autouse=True)
def short_library():
    """The first modules of the standard library in capitals, so that the words of lists are the only small letters."""
    everything = Stdlib.documents
    documents = [Document(one.name, one.text.upper()) for one in islice(Stdlib().documents(), FEW)]
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


def test_without_lists_only_statements_are_added_to_the_text():
    for document, plain in training_documents(Recall(text_ratio=1.0)):
        assert STATEMENT.search(document.text)
        assert STATEMENT.sub("", document.text) == plain.text


def test_most_statements_repeat_a_key_within_the_longest_gap():
    longest_gap = 100
    for document, _ in training_documents(Recall(longest_gap=longest_gap)):
        statements = list(STATEMENT.finditer(document.text))
        repeated = [(a, b) for a, b in pairwise(statements) if a[1] == b[1]]
        assert len(repeated) >= len(statements) / 2
        assert max(b.start() - a.end() for a, b in repeated) <= longest_gap


def test_lists_repeat_two_numbers_and_two_new_words():
    found = [re.findall(r"\n((?:[a-z0-9]{4,8} ){16,})", document.text) for document, _ in training_documents(Recall())]
    # The last word may be cut off, with a space of the text after it.
    lists = [set(line.split()[:-1]) for lines in found for line in lines]
    assert len(lists) > 100
    assert all(len(words) <= 4 and sum(map(str.isdigit, words)) <= 2 for words in lists)
    assert len(set.union(*lists)) > len(lists) / 2


def test_keys_of_the_evaluation_do_not_occur_in_training():
    trained = {key for document, _ in training_documents(Recall()) for key in STATEMENT.findall(document.text)}
    keys, draws = Keys(ByteTokenizer().encode), np.random.default_rng(0).integers(2**62, size=500).tolist()
    measured = {key.strip() for draw in draws for key in keys.pair(draw)}
    assert len(trained) > 100
    assert len(measured) > 500
    assert not trained & measured
    assert all(sum(map(int, key)) % 2 == 0 for key in trained)
    assert all(sum(map(int, key)) % 2 == 1 for key in measured)


@pytest.mark.parametrize("settings", [{"longest_gap": 15}, {"text_ratio": 0.0}, {"text_ratio": 1.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Recall(**settings)


@pytest.mark.parametrize("settings", [{"longest_gap": 100}, {"text_ratio": 0.5}, {"seed": 1}, {"validation_ratio": 0.2}])
def test_fingerprint_depends_on_every_setting_that_changes_texts(settings):
    assert Recall(**settings).fingerprint() != Recall().fingerprint()
    assert Recall(cache="elsewhere").fingerprint() == Recall().fingerprint()
