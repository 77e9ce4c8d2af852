"""Best-fit packing: documents that fit are whole and isolated, few are cut, and every token is a target once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.test_sequences import numbered

from elongate.data.packing import PackedSequences, best_fit, count_stream_cuts
from elongate.data.sequences import Sequences
from elongate.data.tokens import Tokens


def documents_of(tokens: Tokens) -> np.ndarray:
    """The document of each token of the stream."""
    return np.repeat(np.arange(len(tokens.bounds) - 1), np.diff(tokens.bounds))


def rows_of(sequences: PackedSequences, epoch: int = 0) -> list[list[list[int]]]:
    """The pieces of each sequence of an epoch, found from the marks of its batch alone."""
    batch = sequences.batch(epoch * len(sequences), len(sequences))
    rows = []
    for row, starts, scored in zip(batch.tokens, batch.starts, batch.scored, strict=True):
        pieces = np.split(row, np.flatnonzero(starts)[1:])
        kept = np.split(scored, np.flatnonzero(starts)[1:])
        assert all(marks.all() or not marks.any() for marks in kept)
        rows.append([piece.tolist() for piece, marks in zip(pieces, kept, strict=True) if marks.all()])
    return rows


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 20))
def test_documents_that_fit_are_whole_and_every_token_is_a_target_once(lengths, length):
    tokens = numbered(*lengths)
    document = documents_of(tokens)
    for epoch in range(2):
        pieces = [piece for row in rows_of(PackedSequences(tokens, length, 0), epoch) for piece in row]
        for piece in pieces:
            assert np.unique(document[piece]).size == 1
            assert (np.diff(piece) == 1).all()
        firsts = sorted(piece[0] for piece in pieces)
        for start, size in zip(tokens.bounds[:-1], lengths, strict=True):
            if size <= length + 1:
                assert list(range(start, start + size)) in pieces
        targets = sorted(token for piece in pieces for token in piece[1:])
        assert targets == sorted(set(range(int(tokens.bounds[-1]))) - set(tokens.bounds[:-1].tolist()))
        assert len(firsts) == len(set(firsts))


def test_positions_and_starts_restart_with_each_piece_and_padding_is_no_target():
    batch = PackedSequences(numbered(5, 3, 2), 8, 0).batch(0, 2)
    by_first = {row[0]: i for i, row in enumerate(batch.tokens)}
    row = by_first[0]
    assert batch.tokens[row].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9]  # the last token of all pads
    assert batch.positions[row].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert np.flatnonzero(batch.starts[row]).tolist() == [0, 5, 8]
    assert batch.scored[row].tolist() == [True] * 8 + [False]


def test_a_batch_is_a_pure_function_of_seed_and_index():
    tokens = numbered(*range(1, 60))
    used, fresh = PackedSequences(tokens, 64, 7), PackedSequences(tokens, 64, 7)
    for first in (0, 90, 3):
        used.batch(first, 5)
    assert (used.batch(20, 6).tokens == fresh.batch(20, 6).tokens).all()
    one_by_one = [fresh.batch(index, 1).tokens[0] for index in range(20, 26)]
    assert (np.stack(one_by_one) == used.batch(20, 6).tokens).all()
    orders = {PackedSequences(tokens, 64, seed).batch(0, 8).tokens.tobytes() for seed in range(4)}
    assert len(orders) == 4
    assert rows_of(used, 0) != rows_of(used, 1)


def brute_force_cuts(tokens: Tokens, length: int) -> int:
    """Documents of which no sequence of the stream at offset 0 contains all tokens, counted once for each border inside."""
    cuts = 0
    for start, stop in zip(tokens.bounds[:-1], tokens.bounds[1:], strict=True):
        cuts += sum(start < border and stop > border + 1 for border in range(length, len(tokens) - 1, length))
    return cuts


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 20))
def test_the_cuts_of_the_stream_are_those_of_a_plain_loop(lengths, length):
    tokens = numbered(*lengths)
    assert count_stream_cuts(tokens.bounds, length) == brute_force_cuts(tokens, length)


def test_packing_cuts_at_most_a_fifth_of_what_the_stream_cuts():
    # Log-normal lengths, as texts have; some documents are longer than a sequence and must be cut.
    random = np.random.default_rng(0)
    lengths = np.maximum(2, random.lognormal(np.log(400), 1.0, size=3000)).astype(int)
    tokens, length = numbered(*lengths), 2048
    packed = PackedSequences(tokens, length, 0)
    document = documents_of(tokens)
    pieces = np.zeros(len(lengths), dtype=int)
    for row in rows_of(packed):
        for piece in row:
            pieces[document[piece[0]]] += 1
    counted = int((pieces - 1).sum())
    usage = packed.usage(len(packed))[""]
    assert usage.cuts == counted
    stream = Sequences(tokens, length, 0, False)
    starts = np.sort(stream.batch(0, len(stream)).tokens[:, 0])
    inside = (tokens.bounds[document[starts]] < starts) & (tokens.bounds[document[starts] + 1] > starts + 1)
    assert usage.stream_cuts == pytest.approx(inside.sum(), rel=0.05)
    assert counted <= inside.sum() / 5
    assert usage.padding_ratio < 0.01
    assert (pieces[lengths <= length + 1] == 1).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 40))
def test_each_piece_goes_where_the_least_space_remains(sizes, capacity):
    sizes = sorted(sizes, reverse=True)
    rows = best_fit(np.array(sizes), capacity)
    spaces: list[int] = []
    for size, row in zip(sizes, rows.tolist(), strict=True):
        fitting = [space for space in spaces if space >= size]
        if row == len(spaces):
            assert not fitting
            spaces.append(capacity)
        else:
            assert spaces[row] == min(fitting)
        spaces[row] -= size
    assert min(spaces) >= 0
