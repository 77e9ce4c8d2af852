"""Block lists compared with dense definitions: every allowed pair exactly once, and no other pair."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from elongate.context.attention.kernel.blocks import Block, behind_and_ahead, beyond, full, restricted, strips, tiles, window
from elongate.context.attention.sinks import first_keys

lengths = some.integers(0, 40)
sizes = some.integers(1, 45)


def covered(blocks: Iterable[Block], length: int) -> np.ndarray:
    """How often each pair is covered, queries × keys."""
    found = np.zeros((length, length), dtype=int)
    for block in blocks:
        (q, q_stop), (k, k_stop) = block.queries, block.keys
        assert 0 <= q < q_stop <= length
        assert 0 <= k < k_stop <= length
        shape = (q_stop - q, k_stop - k)
        assert block.shape == "all" or shape[0] == shape[1]
        half = {"all": np.ones, "lower": lambda s: np.tril(np.ones(s)), "upper": lambda s: np.triu(np.ones(s))}[block.shape]
        found[q:q_stop, k:k_stop] += half(shape).astype(int)
    return found


def pairs(length: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(length)[:, None], np.arange(length)[None]


def num_pairs(block: Block) -> int:
    rows, columns = (stop - start for start, stop in (block.queries, block.keys))
    return rows * columns if block.shape == "all" else rows * (rows + 1) // 2


block_lists = some.one_of(
    some.builds(lambda n, causal: (n, list(full(n, causal))), lengths, some.booleans()),
    some.builds(lambda n, size, causal, first: (n, list(tiles(n, size, causal, first))), lengths, sizes, some.booleans(), sizes),
    some.builds(lambda n, width, causal: (n, list(window(n, width, causal))), lengths, sizes, some.booleans()),
    some.builds(lambda n, width: (n, list(beyond(n, width))), lengths, sizes),
)


@given(n=lengths, causal=some.booleans())
def test_full_covers_all_pairs_or_those_that_are_not_ahead(n: int, causal: bool) -> None:
    q, k = pairs(n)
    np.testing.assert_array_equal(covered(full(n, causal), n), (k <= q) | (not causal))


@given(n=lengths, size=sizes, first=some.none() | sizes, causal=some.booleans())
def test_tiles_only_see_themselves(n: int, size: int, first: int | None, causal: bool) -> None:
    q, k = pairs(n)
    number = np.array([0 if first is not None and t < first else 1 + (t - (first or 0)) // size for t in range(n)], dtype=int)
    same = number[:, None] == number
    np.testing.assert_array_equal(covered(tiles(n, size, causal, first), n), same & ((k <= q) | (not causal)))


@given(n=lengths, width=sizes, causal=some.booleans())
def test_window_covers_pairs_nearer_than_its_width(n: int, width: int, causal: bool) -> None:
    q, k = pairs(n)
    near = (q - k >= 0) & (q - k < width) if causal else abs(q - k) < width
    np.testing.assert_array_equal(covered(window(n, width, causal), n), near)


@given(n=lengths, width=sizes)
def test_beyond_covers_the_rest_of_a_causal_window(n: int, width: int) -> None:
    q, k = pairs(n)
    np.testing.assert_array_equal(covered(beyond(n, width), n), q - k >= width)


@given(n=lengths, width=sizes, count=sizes)
def test_first_keys_covers_those_keys_outside_the_window(n: int, width: int, count: int) -> None:
    q, k = pairs(n)
    np.testing.assert_array_equal(covered(first_keys(n, count, width), n), (q - k >= width) & (k < count))


@given(case=block_lists, data=some.data())
def test_restricting_to_a_partition_of_the_queries_covers_the_same_pairs(case: tuple[int, list[Block]], data: Any) -> None:
    n, blocks = case
    cuts = sorted({0, n, *data.draw(some.lists(some.integers(0, n), max_size=4))})
    whole = covered(blocks, n)
    for start, stop in pairwise(cuts):
        inside = np.zeros((n, 1), dtype=bool)
        inside[start:stop] = True
        np.testing.assert_array_equal(covered(restricted(blocks, (start, stop)), n), np.where(inside, whole, 0))


def squares(queries: int, keys: int, size: int, shape: Any) -> tuple[int, list[Block]]:
    """One block at any place; the diagonal may cut it, also if it is a half."""
    return max(queries, keys) + size, [Block((queries, queries + size), (keys, keys + size), shape)]


small = some.integers(0, 20)
anywhere = some.one_of(block_lists, some.builds(squares, small, small, some.integers(1, 20), some.sampled_from(["all", "lower", "upper"])))


@given(case=anywhere)
def test_keys_behind_and_keys_ahead_are_in_separate_lists(case: tuple[int, list[Block]]) -> None:
    n, blocks = case
    whole, (q, k) = covered(blocks, n), pairs(n)
    behind, ahead = behind_and_ahead(blocks)
    np.testing.assert_array_equal(covered(behind, n), np.where(k <= q, whole, 0))
    np.testing.assert_array_equal(covered(ahead, n), np.where(k > q, whole, 0))


def test_a_square_on_the_diagonal_is_two_halves() -> None:
    assert behind_and_ahead([Block((3, 9), (3, 9))]) == ([Block((3, 9), (3, 9), "lower")], [Block((3, 8), (4, 9), "upper")])


@given(case=anywhere, size=sizes)
def test_strips_cover_the_same_pairs_and_their_halves_are_no_larger(case: tuple[int, list[Block]], size: int) -> None:
    n, blocks = case
    cut = list(strips(blocks, size))
    np.testing.assert_array_equal(covered(cut, n), covered(blocks, n))
    assert all(block.queries[1] - block.queries[0] <= size for block in cut if block.shape != "all")


@given(case=block_lists, by=some.integers(0, 9))
def test_shifted_and_transposed_move_and_mirror_the_pairs(case: tuple[int, list[Block]], by: int) -> None:
    n, blocks = case
    moved = covered((block.shifted(by) for block in blocks), n + by)
    assert moved.sum() == moved[by:, by:].sum()
    np.testing.assert_array_equal(moved[by:, by:], covered(blocks, n))
    np.testing.assert_array_equal(covered((block.transposed() for block in blocks), n), covered(blocks, n).T)


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_needs_linear_time_and_two_calls_per_tile_and_side(causal: bool) -> None:
    found = {n: list(window(n, 512, causal)) for n in (4096, 32768)}
    assert len(found[32768]) == (127 if causal else 190)
    assert sum(map(num_pairs, found[32768])) / sum(map(num_pairs, found[4096])) < 8.6
