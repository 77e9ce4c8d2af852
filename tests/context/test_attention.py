"""Which pairs each attention in conf/ covers and at what distance, compared with definitions, papers and caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from omegaconf import OmegaConf
from tests.context.test_blocks import covered, num_pairs, pairs

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.attention.attention import Attention, Pattern
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.blocks import restricted
from elongate.context.attention.shifted import Shifted
from elongate.errors import ConfigError, inside

WORDS = sorted(path.stem for path in (conf_directory() / "context/attention").glob("*.yaml"))
HEADS = 4
every = pytest.mark.parametrize("word", WORDS)
REACH = {"string": 1.2}  # multiple of the original length that the defaults reach; the others reach four times as far


def attention(word: str, **fields: Any) -> Attention:
    node = OmegaConf.merge(OmegaConf.load(conf_directory() / f"context/attention/{word}.yaml"), fields)
    return build(node, "context.attention")


def directions(word: str) -> list[bool]:
    return [True] if "causal" in attention(word).needs() else [True, False]


def distances(chosen: Pattern, length: int, causal: bool = True) -> np.ndarray:
    """Distance at which each query sees each key, heads × queries × keys; -1 if it does not see it."""
    q, k = pairs(length)
    times = np.zeros((HEADS, length, length), dtype=int)
    found = np.full((HEADS, length, length), -1)
    for region in chosen.regions(length, HEADS, causal):
        heads = slice(*(region.heads or (0, HEADS)))
        here = covered(region.blocks, length)
        times[heads] += here
        queries = q if region.query_positions is None else region.query_positions(q[:, 0])[:, None]
        keys = k if region.key_positions is None else region.key_positions(k[0])[None]
        found[heads] = np.where(here, queries - keys, found[heads])
    assert times.max(initial=0) <= 1, "a pair is covered twice"
    assert times.any(-1).all(), "a query sees nothing"
    return np.where(times, found if causal else abs(found), -1)


# -- properties of all ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@every
@settings(max_examples=12, deadline=None)
@given(length=some.integers(1, 40), original=some.integers(8, 24))
def test_pairs_are_covered_once_and_every_query_sees_a_key_but_none_ahead(word: str, length: int, original: int) -> None:
    chosen = attention(word).for_length(4 * original, original)
    for causal in directions(word):
        found = distances(chosen, length, causal)
        if causal:
            assert (found[:, *np.triu_indices(length, 1)] == -1).all()


@every
def test_regions_and_their_maps_do_not_depend_on_the_length(word: str) -> None:
    chosen = attention(word).for_length(64, 16)
    shapes = [
        [(r.heads, r.query_positions, r.key_positions, r.query_scale) for r in chosen.regions(length, HEADS, True)]
        for length in (1, 16, 64)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert chosen.rotates == attention(word).rotates == any(region[1] or region[2] or region[3] for region in shapes[0])
    assert chosen.word == attention(word).word == word
    assert chosen.is_full == attention(word).is_full == (word == "full")
    regions = set() if chosen.is_full else {"regions"}
    assert attention(word).needs() == regions | ({"rotary", "causal"} if chosen.rotates else set())


@every
def test_the_view_of_a_token_does_not_depend_on_later_tokens(word: str) -> None:
    chosen = attention(word).for_length(64, 16)
    whole = distances(chosen, 64)
    for length in (1, 15, 16, 17, 40):
        np.testing.assert_array_equal(distances(chosen, length), whole[:, :length, :length])


@pytest.mark.parametrize("word", [word for word in WORDS if word not in ("shifted", "string")])
@pytest.mark.parametrize("original", [8, 21, 64])
def test_up_to_the_original_length_attention_is_full(word: str, original: int) -> None:
    chosen = attention(word).for_length(4 * original, original)
    for causal in directions(word):
        np.testing.assert_array_equal(distances(chosen, original, causal), distances(Full(), original, causal))


@pytest.mark.parametrize("word", ["self_extend", "rerope", "dual_chunk", "sinks"])
@pytest.mark.parametrize("original", [8, 21, 64])
def test_no_distance_is_longer_than_the_trained_ones(word: str, original: int) -> None:
    chosen = attention(word)
    chosen.check(4 * original, original)
    assert distances(chosen.for_length(4 * original, original), 4 * original).max() == original - 1


@every
def test_maps_give_the_same_on_torch(word: str) -> None:
    for region in attention(word).for_length(64, 16).regions(64, HEADS, True):
        for positions in (region.query_positions, region.key_positions):
            if positions is not None:
                mapped = positions(torch.arange(64)[None])
                assert mapped.dtype == torch.int64
                np.testing.assert_array_equal(mapped[0].numpy(), positions(np.arange(64)))


@every
def test_a_chunk_of_the_queries_and_the_rest_cover_the_same_pairs(word: str) -> None:
    for region in attention(word).for_length(64, 16).regions(64, HEADS, True):
        whole = covered(region.blocks, 64)
        for cut in range(1, 64, 3):
            first, rest = (covered(restricted(region.blocks, chunk), 64) for chunk in ((0, cut), (cut, 64)))
            np.testing.assert_array_equal(first + rest, whole)


@every
def test_patterns_cover_at_most_the_pairs_of_full_attention_in_few_calls(word: str) -> None:
    for causal in directions(word):
        blocks = [b for r in attention(word).for_length(32768, 2048).regions(32768, 2, causal) for b in r.blocks]
        whole = sum(num_pairs(block) for region in Full().regions(32768, 1, causal) for block in region.blocks)
        assert sum(map(num_pairs, blocks)) <= whole
        assert len(blocks) <= 130


@pytest.mark.parametrize("word", ["window", "sinks", "global_local"])
def test_windows_are_linear_in_the_length(word: str) -> None:
    chosen = attention(word, window_length=512).for_length(32768, 512)
    for causal in directions(word):
        found = [sum(num_pairs(b) for r in chosen.regions(length, HEADS, causal) for b in r.blocks) for length in (4096, 32768)]
        assert found[1] / found[0] < 8.6


@every
def test_the_defaults_fit_an_extension(word: str) -> None:
    chosen = attention(word)
    for original in range(5, 65):
        chosen.check(int(REACH.get(word, 4) * original), original)


@every
def test_only_some_attentions_act_on_layers_with_their_own_window(word: str) -> None:
    pattern = attention(word).for_length(64, 16)
    if not attention(word).acts_within_windows:
        with pytest.raises(AssertionError, match=f"{word} does not act within windows"):
            pattern.within_window(5)
        return
    q, k = pairs(40)
    for causal in (True, False):
        allowed = (abs(q - k) < 5) & ((k <= q) | (not causal))
        np.testing.assert_array_equal(distances(pattern.within_window(5), 40, causal)[0] >= 0, allowed)


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "fields", "lengths", "message"),
    [
        ("window", {"window_length": 0}, None, "window_length=0: must be at least 1; use context.attention.window_length=null"),
        ("window", {"window_length": 300}, (256, 64), "window_length=300: is wider than the 256 tokens that there are to see; use "),
        ("sinks", {"num_sinks": 0}, None, "num_sinks=0: must be at least 1; use context.attention.num_sinks=4"),
        ("sinks", {"window_length": 300}, (256, 64), "use context.attention.window_length=252 or less"),
        ("sinks", {"num_sinks": 64}, (256, 64), "num_sinks=64: leaves no window within the original length of 64; use "),
        ("global_local", {"num_global": 0}, None, "num_global=0: must be at least 1"),
        ("global_local", {"num_global": 300}, (256, 64), "use context.attention.num_global=256 or less"),
        ("shifted", {"group_ratio": 1.5}, None, "group_ratio=1.5: must be above 0 and below 1; use context.attention.group_ratio=0.25"),
        ("shifted", {"group_ratio": 0.3}, (256, 64), "does not cut a length of 256 into whole groups of at least 2 tokens; use "),
        ("shifted", {"group_ratio": 0.3}, (256, 64), "use context.attention.group_ratio=0.25"),
        ("shifted", {}, (1023, 256), "use context.attention.group_ratio=0.333333333"),
        ("shifted", {}, (257, 64), "use a length such as 260"),
        ("self_extend", {"group_size": 0}, None, "group_size=0: must be at least 1"),
        ("self_extend", {"plain_length": -1}, None, "plain_length=-1: must be at least 0"),
        ("self_extend", {"window_length": 64}, (256, 64), "window_length=64: must be below the original length of 64"),
        ("self_extend", {"group_size": 2}, (256, 64), "group_size=2: reaches 112 tokens with window_length=16, not 256; use "),
        ("self_extend", {"group_size": 2}, (256, 64), "use context.attention.group_size=6 or more"),
        ("rerope", {"window_length": 100}, (256, 64), "use context.attention.window_length=63 or less"),
        ("rerope", {"scale_base": 1}, None, "scale_base=1: must be at least 2"),
        ("string", {"shift_length": 1}, None, "shift_length=1: must be at least 2; use context.attention.shift_length=null"),
        ("string", {"window_length": 0}, None, "window_length=0: must be at least 1; use context.attention.window_length=null"),
        ("string", {"window_length": 128}, (80, 64), "window_length=128: must be below shift_length=21, or no distance changes; use "),
        ("string", {"shift_length": 65}, (80, 64), "use context.attention.shift_length=64 or less"),
        ("string", {"shift_length": 64}, (64, 64), "shift_length=64: must be below the length of 64, or no distance is shifted; use "),
        (
            "string",
            {},
            (100, 64),
            "shift_length=21: reaches 83 tokens with window_length=2, not 100; use context.attention.shift_length=41 ",
        ),
        ("string", {"window_length": 4}, (256, 64), "use context.target_length=124 or less, or context/attention=self_extend"),
        ("dual_chunk", {"chunk_length": 0}, None, "chunk_length=0: must be at least 1"),
        ("dual_chunk", {"chunk_length": 8, "local_length": 9}, None, "local_length=9: must be at most chunk_length=8"),
        ("dual_chunk", {"chunk_length": 64}, (256, 64), "use context.attention.chunk_length=48"),
        ("dual_chunk", {"local_length": 20}, (256, 64), "use context.attention.local_length=16 or less"),
    ],
)
def test_refusals(word: str, fields: dict[str, Any], lengths: tuple[int, int] | None, message: str) -> None:
    def refused() -> None:
        chosen = attention(word, **fields)
        assert lengths is not None
        with inside("context.attention"):
            chosen.check(*lengths)

    with pytest.raises(ConfigError) as caught:
        refused()
    assert str(caught.value).startswith("context.attention.")
    assert message in str(caught.value)


def test_one_head_has_no_half_to_shift() -> None:
    with pytest.raises(ConfigError, match="context/attention=shifted: shifts half of the heads, but the model has only one"):
        Shifted().for_length(64, 16).regions(64, 1, True)
