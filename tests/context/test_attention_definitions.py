"""Each attention compared with the figures and formulas of its paper, written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.context.test_attention import HEADS, attention, distances
from tests.context.test_blocks import pairs

from elongate.context.attention.dual_chunk import DualChunk, DualChunkPattern
from elongate.context.attention.full import Full
from elongate.context.attention.global_local import GlobalLocalPattern
from elongate.context.attention.rerope import ReRope, ReRopePattern
from elongate.context.attention.self_extend import SelfExtend, SelfExtendPattern
from elongate.context.attention.shifted import Shifted
from elongate.context.attention.sinks import SinksPattern
from elongate.context.attention.window import WindowPattern
from elongate.errors import ConfigError


def matrix(rows: str) -> np.ndarray:
    """Parses a lower triangle; -1 elsewhere and for a dot."""
    lines = [[-1 if cell == "." else int(cell) for cell in line.split()] for line in rows.strip().splitlines()]
    return np.array([line + [-1] * (len(lines) - len(line)) for line in lines])


@settings(max_examples=50)
@given(length=some.integers(1, 40), width=some.integers(1, 45), count=some.integers(1, 6))
def test_window_and_global_tokens(length: int, width: int, count: int) -> None:
    q, k = pairs(length)
    for causal in (True, False):
        allowed = (k <= q) | (not causal)
        near = abs(q - k) < width
        everyone = (k < count) | (q < count)
        for chosen, sees in ((WindowPattern(width), near), (GlobalLocalPattern(count, width), near | everyone)):
            found = distances(chosen, length, causal)[0]
            np.testing.assert_array_equal(found, np.where(allowed & sees, abs(q - k), -1))


@given(length=some.integers(1, 40), width=some.integers(1, 12), count=some.integers(1, 5))
def test_sinks_equal_the_cache_of_streaming_llm_token_by_token(length: int, width: int, count: int) -> None:
    expected, cache = np.full((length, length), -1), []
    for token in range(length):
        if len(cache) == count + width:
            del cache[count]  # the oldest token that is not a sink
        cache.append(token)
        expected[token, cache] = len(cache) - 1 - np.arange(len(cache))
    np.testing.assert_array_equal(distances(SinksPattern(num_sinks=count, window_length=width), length)[0], expected)


def test_sinks_by_hand() -> None:
    expected = """
        0
        1 0
        2 1 0
        3 2 1 0
        4 3 2 1 0
        4 3 . 2 1 0
        4 3 . . 2 1 0
        4 3 . . . 2 1 0
    """
    np.testing.assert_array_equal(distances(SinksPattern(num_sinks=2, window_length=3), 8)[0], matrix(expected))


def test_self_extend_equals_figure_3_of_its_paper() -> None:
    """Trained on 7 tokens, groups of 2, a window of 4."""
    chosen = SelfExtendPattern(group_size=2, window_length=4, plain_length=0)
    expected = """
        0
        1 0
        2 1 0
        3 2 1 0
        4 3 2 1 0
        4 4 3 2 1 0
        5 5 4 3 2 1 0
        5 5 4 4 3 2 1 0
        6 6 5 5 4 3 2 1 0
        6 6 5 5 4 4 3 2 1 0
    """
    np.testing.assert_array_equal(distances(chosen, 10)[0], matrix(expected))
    settings = SelfExtend(group_size=2, window_length=4, plain_length=0)
    settings.check(10, 7)
    with pytest.raises(ConfigError):
        settings.check(11, 7)


def test_self_extend_rounds_where_the_group_does_not_divide_the_window() -> None:
    expected = """
        0
        1 0
        2 1 0
        3 2 1 0
        4 4 2 1 0
        4 4 3 2 1 0
        5 5 4 4 2 1 0
    """
    np.testing.assert_array_equal(distances(SelfExtendPattern(group_size=2, window_length=3, plain_length=0), 7)[0], matrix(expected))


def test_rerope_by_hand() -> None:
    expected = """
        0
        1 0
        2 1 0
        3 2 1 0
        3 3 2 1 0
        3 3 3 2 1 0
    """
    np.testing.assert_array_equal(distances(ReRopePattern(window_length=3, plain_length=0, scale_base=6), 6)[0], matrix(expected))


def test_the_first_queries_see_true_positions_and_the_others_are_extended() -> None:
    expected = """
        0
        1 0
        2 1 0
        3 2 1 0
        4 3 2 1 0
        2 2 2 2 1 0
        2 2 2 2 2 1 0
    """
    np.testing.assert_array_equal(distances(ReRopePattern(window_length=2, plain_length=5, scale_base=5), 7)[0], matrix(expected))


@pytest.mark.parametrize("fields", [{"group_size": 4}, {"group_size": 5}, {"scale_base": 32}], ids=str)
def test_with_plain_length_0_attention_is_full_up_to_window_length_plus_one(fields: dict[str, int]) -> None:
    word = "self_extend" if "group_size" in fields else "rerope"
    chosen = attention(word, window_length=12, plain_length=0, **fields).for_length(64, 32)
    np.testing.assert_array_equal(distances(chosen, 13), distances(Full(), 13))
    assert (distances(chosen, 14) != distances(Full(), 14)).any()


def test_rerope_sharpens_queries_past_the_original_length_by_the_logarithm() -> None:
    for original in (2, 13, 16, 4096):
        length = 4 * original
        for region in ReRope().for_length(length, original).regions(length, HEADS, True):
            scale = region.query_scale(torch.arange(length)).numpy()
            np.testing.assert_allclose(scale[:original], 1, rtol=1e-15)
            assert scale[-1] == pytest.approx(math.log(length) / math.log(original))
    assert (ReRope(scale_base=64).for_length(64, 16).query_scale(torch.arange(64)) == 1).all()


def test_dual_chunk_equals_figure_2_of_its_paper_continued() -> None:
    """Trained on 10 tokens; chunks of 6 leave a local window of 4."""
    expected = """
        0
        1 0
        2 1 0
        3 2 1 0
        4 3 2 1 0
        5 4 3 2 1 0
        6 5 4 3 2 1  0
        7 6 5 4 3 2  1 0
        8 7 6 5 4 3  2 1 0
        9 8 7 6 5 4  3 2 1 0
        9 8 7 6 5 4  4 3 2 1 0
        9 8 7 6 5 4  5 4 3 2 1 0
        9 8 7 6 5 4  6 5 4 3 2 1  0
        9 8 7 6 5 4  7 6 5 4 3 2  1 0
        9 8 7 6 5 4  8 7 6 5 4 3  2 1 0
    """
    np.testing.assert_array_equal(distances(DualChunk(chunk_length=6).for_length(15, 10), 15)[0], matrix(expected))


def test_dual_chunk_defaults_to_chunks_of_three_quarters_of_the_original_length() -> None:
    assert DualChunk().for_length(16384, 4096) == DualChunkPattern(chunk_length=3072, local_length=1024)


def test_dual_chunk_with_the_numbers_of_the_authors_code() -> None:
    """Positions computed as in that code, from chunk_size and local_window."""
    chunk_size, local_window, length = 12, 2, 40
    chunk = chunk_size - local_window
    ours = DualChunkPattern(chunk_length=chunk, local_length=local_window + 1)
    q, k = pairs(length)
    successive = np.minimum(np.arange(chunk) + chunk, chunk_size)
    apart = q // chunk - k // chunk
    query = np.where(apart == 0, q % chunk, np.where(apart == 1, successive[q % chunk], successive[chunk - 1]))
    np.testing.assert_array_equal(distances(ours, length)[0], np.where(k <= q, query - k % chunk, -1))


def test_shifted_groups_by_hand() -> None:
    straight = """
        1
        1 1
        1 1 1
        1 1 1 1
        0 0 0 0 1
        0 0 0 0 1 1
        0 0 0 0 1 1 1
        0 0 0 0 1 1 1 1
    """
    shifted = """
        1
        1 1
        0 0 1
        0 0 1 1
        0 0 1 1 1
        0 0 1 1 1 1
        0 0 0 0 0 0 1
        0 0 0 0 0 0 1 1
    """
    chosen = Shifted(group_ratio=0.5).for_length(8, 8)
    seen = distances(chosen, 8) >= 0
    for head, group in enumerate([straight, straight, shifted, shifted]):
        np.testing.assert_array_equal(seen[head], matrix(group) == 1)
    both = distances(chosen, 8, causal=False) >= 0
    np.testing.assert_array_equal(both, seen | seen.transpose(0, 2, 1))


def test_shifted_groups_keep_their_size_in_shorter_documents() -> None:
    groups = Shifted().for_length(64, 16)
    np.testing.assert_array_equal(distances(groups, 24), distances(groups, 64)[:, :24, :24])
    first, second = groups.regions(24, 5, True)
    assert (first.heads, second.heads) == ((0, 2), (2, 5))
