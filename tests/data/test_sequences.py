"""Sequences are a pure function of (seed, index, length), and an epoch of them is the whole stream once."""

from __future__ import annotations

import numpy as np
import pytest

from elongate.data.sequences import Sequences, held_out
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError


def numbered(*lengths: int) -> Tokens:
    """Documents whose tokens are numbered throughout, so that a token tells where it stands."""
    bounds = np.cumsum([0, *lengths])
    return Tokens(np.arange(bounds[-1], dtype=np.uint32), bounds)


def test_a_batch_does_not_depend_on_what_was_asked_before():
    tokens = numbered(1000, 500)
    fresh = Sequences(tokens, 16, 7, False).batch(300, 8).tokens
    used = Sequences(tokens, 16, 7, False)
    for first in (0, 900, 299, 5):
        used.batch(first, 4)
    assert (used.batch(300, 8).tokens == fresh).all()
    one_by_one = [used.batch(index, 1).tokens[0] for index in range(300, 308)]
    assert (np.stack(one_by_one) == fresh).all()


@pytest.mark.parametrize(("size", "length"), [(1000, 16), (1000, 999), (33, 16), (32, 16), (31, 16), (17, 16), (10, 1)])
def test_an_epoch_targets_each_token_once_but_for_the_ragged_ends(size, length):
    sequences = Sequences(numbered(size), length, 3, False)
    for epoch in range(3):
        tokens = sequences.batch(epoch * len(sequences), len(sequences)).tokens
        assert (np.diff(tokens, axis=1) == 1).all()
        targets = np.sort(tokens[:, 1:].ravel())
        assert (np.diff(targets) == 1).all()
        assert size - len(targets) <= 2 * length
        inputs = np.sort(tokens[:, :-1].ravel())
        assert (inputs + 1 == targets).all()


def test_epochs_differ_in_order_and_offset_and_seeds_and_lengths_do_too():
    tokens = numbered(5000)
    sequences = Sequences(tokens, 16, 0, False)
    starts = [sequences.batch(epoch * len(sequences), len(sequences)).tokens[:, 0] for epoch in range(20)]
    assert len({tuple(each) for each in starts}) == 20
    assert len({each[0] % 16 for each in starts}) > 5
    assert (Sequences(tokens, 16, 1, False).batch(0, 8).tokens != starts[0][:8, None]).any()


def test_batches_run_on_into_the_next_epoch():
    sequences = Sequences(numbered(100), 8, 0, False)
    across = sequences.batch(len(sequences) - 2, 4).tokens
    assert (across[:2] == sequences.batch(len(sequences) - 2, 2).tokens).all()
    assert (across[2:] == sequences.batch(len(sequences), 2).tokens).all()


def test_isolated_documents_count_positions_as_a_loop_does():
    tokens = numbered(3, 1, 1, 40, 2, 7, 100, 5)
    first_tokens = set(tokens.bounds[:-1].tolist())
    batch = Sequences(tokens, 12, 0, True).batch(0, 40)
    for row, positions, starts in zip(batch.tokens, batch.positions, batch.starts, strict=True):
        expected, position = [], -1
        for token in row[:-1]:
            position = 0 if token in first_tokens else position + 1
            expected.append(position)
        assert positions.tolist() == expected
        assert starts.tolist() == [token in first_tokens for token in row]
    assert batch.starts.any()
    assert not batch.starts.all()


def test_positions_and_starts_come_only_with_isolated_documents():
    batch = Sequences(numbered(100), 8, 0, False).batch(0, 2)
    assert (batch.positions, batch.starts) == (None, None)
    assert (batch.tokens.dtype, batch.tokens.shape) == (np.int64, (2, 9))


def test_too_few_tokens_name_their_number_and_the_remedy():
    with pytest.raises(ConfigError) as error:
        Sequences(numbered(16), 16, 0, False)
    rule = "length=16: the train split has 16 tokens, one sequence needs 17; use length=15 or less, or more data"
    assert str(error.value) == rule


def test_held_out_takes_beginnings_of_documents_evenly_spaced():
    tokens = numbered(*[20, 5] * 10)
    cuts = held_out(tokens, 10, 5)
    assert cuts.documents.tolist() == [0, 4, 8, 12, 16]
    assert (cuts.tokens[:, 0] == tokens.bounds[cuts.documents]).all()
    assert (np.diff(cuts.tokens, axis=1) == 1).all()


def test_held_out_goes_on_in_the_same_documents_where_they_are_too_few():
    tokens = numbered(35, 5, 10, 20)
    assert held_out(tokens, 10, 3).documents.tolist() == [0, 2, 3]
    assert held_out(tokens, 10, 5).documents.tolist() == [0, 0, 2, 3, 3]
    everything = held_out(tokens, 10, 100)
    assert everything.documents.tolist() == [0, 0, 0, 2, 3, 3]
    assert len(np.unique(everything.tokens)) == everything.tokens.size
    documents = np.searchsorted(tokens.bounds, everything.tokens, side="right") - 1
    assert (documents == everything.documents[:, None]).all()


def test_held_out_is_empty_if_no_document_is_long_enough():
    cuts = held_out(numbered(5, 9), 10, 4)
    assert len(cuts) == 0
    assert cuts.tokens.shape == (0, 10)
