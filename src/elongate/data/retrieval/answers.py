"""Answers that every tokenizer can be scored on: a right and a wrong one of equally many tokens.

Tokenizers merge digits and letters in their own way: five digits are one to five tokens of GPT-2 and two of
Llama 3. A right answer and a wrong one can only be compared where they are equally many tokens. So candidates
are grouped by their number of tokens, and both answers come from the same group. With n possible numbers of
tokens, n + 1 candidates contain such a pair (pigeonhole principle): the search ends for every tokenizer that
reads different candidates as different tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Int

Encode = Callable[[str], np.ndarray]
Candidate = TypeVar("Candidate")

# Five digits are at most ten tokens: a tokenizer that fails this many candidates reads all of them alike.
_CANDIDATES = 1000


class Indistinguishable(Exception):
    """The tokenizer reads all answers as the same tokens, for example as its token for unknown text."""


def equally_long(candidates: Iterable[Candidate], tokens: Callable[[Candidate], np.ndarray]) -> tuple[Candidate, Candidate]:
    """The first two candidates that are equally many, but not the same, tokens.

    Raises `Indistinguishable` where there are none.
    """
    first: dict[int, tuple[Candidate, np.ndarray]] = {}
    for candidate in islice(candidates, _CANDIDATES):
        found = tokens(candidate)
        earlier, known = first.setdefault(len(found), (candidate, found))
        if not np.array_equal(known, found):
            return earlier, candidate
    raise Indistinguishable


def continuation(encode: Encode, query: str, answer: str) -> Int[np.ndarray, " answer"]:
    """Tokens of the answer within the text that asks for it.

    Some tokenizers begin every text with a space of their own, which an answer encoded alone would contain.
    Where the tokenizer merges the end of the query with the beginning of the answer, there is no such cut,
    and the answer is encoded alone.
    """
    asked, whole = encode(query), encode(query + answer)
    found = whole[len(asked) :] if np.array_equal(whole[: len(asked)], asked) else whole[:0]
    return (found if len(found) else encode(answer)).astype(np.int64)
