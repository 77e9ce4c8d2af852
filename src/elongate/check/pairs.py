"""Checks of the pairs of query and key that an attention covers, as a pure function of the lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from elongate.check.checks import HEADS, ORIGINAL, TARGET, Check, ensure
from elongate.context.attention.attention import Attention
from elongate.context.attention.kernel.blocks import Block, restricted


def attention_checks(attention: Attention) -> Iterator[Check]:
    """The checks of an attention that need no model, in each direction that it supports."""
    for causal in [True] if "causal" in attention.needs() else [True, False]:
        kind = "causal" if causal else "bidirectional"
        yield f"{kind} pairs: at most once, and each query sees a key", partial(_check_pairs, attention, causal)
        yield f"{kind} pairs: independent of later tokens", partial(_check_prefixes, attention, causal)
        yield f"{kind} pairs: the same in chunks of the queries", partial(_check_chunks, attention, causal)


def _check_pairs(attention: Attention, causal: bool) -> str:
    for length in (1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, TARGET):
        times, where = _coverage(attention, length, causal), f"in a text of {length} tokens"
        ensure(times.max() <= 1, f"a pair is in {times.max()} regions {where}")
        blind = np.argwhere(~times.any(-1))
        ensure(len(blind) == 0, f"head {blind[:1, 0]} of query {blind[:1, 1]} sees no key {where}")
        ensure(not (causal and np.triu(times, 1).any()), f"a query sees a later key {where}")
    whole = HEADS * (TARGET * (TARGET + 1) // 2 if causal else TARGET**2)
    return f"{times.sum() / whole:.0%} of all pairs at {TARGET} tokens"


def _check_prefixes(attention: Attention, causal: bool) -> str:
    whole = _coverage(attention, TARGET, causal)
    for length in (1, ORIGINAL, ORIGINAL + 1, TARGET - 1):
        # Without a causal mask the last tokens of a longer text may see more.
        found = _coverage(attention, length, causal)
        ensure(bool((found == whole[:, :length, :length]).all()), f"the first {length} tokens see other pairs in a text of {TARGET}")
    return ""


def _check_chunks(attention: Attention, causal: bool) -> str:
    for region in attention.for_length(TARGET, ORIGINAL).regions(TARGET, HEADS, causal):
        whole = _covered(region.blocks, TARGET)
        for cut in (1, ORIGINAL + 1, TARGET - 1):
            parts = [_covered(restricted(region.blocks, chunk), TARGET) for chunk in ((0, cut), (cut, TARGET))]
            ensure(bool((parts[0] + parts[1] == whole).all()), f"other pairs if the queries are cut at {cut}")
    return ""


def _coverage(attention: Attention, length: int, causal: bool) -> np.ndarray:
    """The number of regions that each pair is in: heads × queries × keys."""
    times = np.zeros((HEADS, length, length), dtype=int)
    for region in attention.for_length(TARGET, ORIGINAL).regions(length, HEADS, causal):
        times[slice(*(region.heads or (0, HEADS)))] += _covered(region.blocks, length)
    return times


def _covered(blocks: Iterable[Block], length: int) -> np.ndarray:
    """The number of blocks that each pair is in: queries × keys."""
    found = np.zeros((length, length), dtype=int)
    for block in blocks:
        (q, q_stop), (k, k_stop) = block.queries, block.keys
        within = 0 <= q < q_stop <= length and 0 <= k < k_stop <= length
        ensure(within, f"{block} is empty, or reaches outside of {length} tokens")
        all_pairs = np.ones((q_stop - q, k_stop - k), dtype=int)
        found[q:q_stop, k:k_stop] += {"all": all_pairs, "lower": np.tril(all_pairs), "upper": np.triu(all_pairs)}[block.shape]
    return found
