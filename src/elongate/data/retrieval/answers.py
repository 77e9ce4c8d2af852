"""Right and wrong answers with the same number of tokens, for any tokenizer.

Tokenizers merge digits and letters differently: five digits are one to five tokens of GPT-2 and two of Llama 3. Two
answers can only be compared if they have the same number of tokens, so candidates are grouped by that number and both
answers come from the same group. With n possible numbers of tokens, n + 1 candidates contain such a pair (pigeonhole
principle): the search ends for every tokenizer that encodes different candidates differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Int

Encode = Callable[[str], np.ndarray]
Candidate = TypeVar("Candidate")

_CANDIDATES = 1000  # five digits are at most ten tokens, so a tokenizer that fails here encodes all candidates alike


class Indistinguishable(Exception):
    """Raised if the tokenizer encodes all answers alike, for example as its token for unknown text."""


def equally_long(
    candidates: Iterable[Candidate],
    tokens: Callable[[Candidate], np.ndarray],
) -> tuple[Candidate, Candidate]:
    """The first two candidates with the same number of tokens, but other tokens. Raises `Indistinguishable`."""
    first: dict[int, tuple[Candidate, np.ndarray]] = {}
    for candidate in islice(candidates, _CANDIDATES):
        found = tokens(candidate)
        earlier, known = first.setdefault(len(found), (candidate, found))
        if not np.array_equal(known, found):
            return earlier, candidate
    raise Indistinguishable


def continuation(encode: Encode, query: str, answer: str) -> Int[np.ndarray, " answer"]:
    """Tokens of the answer when it follows the query.

    Some tokenizers prepend a space to every text, which an answer encoded alone would contain. If the tokenizer merges
    the end of the query with the beginning of the answer, the answer is encoded alone.
    """
    asked, whole = encode(query), encode(query + answer)
    found = whole[len(asked) :] if np.array_equal(whole[: len(asked)], asked) else whole[:0]
    return (found if len(found) else encode(answer)).astype(np.int64)
