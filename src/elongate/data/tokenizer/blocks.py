"""Encodes a long text in blocks to exactly the tokens of the whole text, in bounded memory.

Subword libraries need 130 bytes of memory per character, so a long text is read in windows that overlap. Near its
edges a window may have other tokens than the whole text: a word is cut, or a space is put before the window. In the
middle of an overlap both windows are far from their edges. If they have the same tokens with the same offsets there,
one is left and the other is entered at a boundary:

- Between two words of the pre-tokenizer, if there are any. Pre-tokenizers read from left to right: after a boundary
  that both windows have, the words depend only on the text that follows, which the second window has.
- Else between two tokens of a BPE. A sequence of tokens is the BPE of its text if every two neighbours are the BPE of
  theirs (Berglund and van der Merwe 2023, arXiv:2309.08715), and any two neighbours are neighbours in a window.
- Within a word, other models have no safe boundary. Unigram adds up the scores of a word from its beginning, and which
  of two equally likely splits (of `111` in `1 11` and `11 1`) it prefers depends on the rounding of that sum.

If the windows do not agree or have no boundary, as within a run of blanks that is longer than an overlap, the first one
is read again with twice its size. Memory then grows with that run, or with the longest word of a Unigram or WordPiece
model, not with the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tokenizers import Encoding, Tokenizer

WINDOW = 1 << 16  # characters of a window
OVERLAP = 1 << 12  # characters that two neighbouring windows have in common
_AT_ONCE = 16  # windows, for the threads of the library


@dataclass(frozen=True)
class _Window:
    """Characters `start` to `stop` of the text and their tokens."""

    start: int
    stop: int
    encoding: Encoding

    @cached_property
    def ids(self) -> np.ndarray:
        return np.array(self.encoding.ids, dtype=np.int64)

    def between(self, start: int, stop: int) -> range:
        """The tokens from that of the character `start` to that of `stop`."""
        first, last = self._token(start), self._token(stop)
        return range(first, last)

    def _token(self, place: int) -> int:
        # Some characters, such as a blank before a word, belong to no token.
        found = (self.encoding.char_to_token(i) for i in range(place - self.start, self.stop - self.start))
        return next((token for token in found if token is not None), len(self.ids))

    def token(self, index: int) -> tuple[int, int, int]:
        """The id of a token, and its first and last character plus one."""
        span = self.encoding.token_to_chars(index) or (0, 0)
        return int(self.ids[index]), self.start + span[0], self.start + span[1]


def encode_blocks(tokenizer: Tokenizer, text: str) -> Iterator[np.ndarray]:
    """Yields the ids of the text in blocks."""
    within_words = type(tokenizer.model).__name__ == "BPE"
    windows = _windows(tokenizer, text)
    current, entered = next(windows), 0
    for following in windows:
        if following.stop <= current.stop:
            continue
        boundary = _boundary(current, following, within_words)
        if boundary is None:
            # Doubled, so that a text without any boundary is not read again for each of its windows.
            stop = min(len(text), max(following.stop, 2 * current.stop - current.start))
            (current,) = _read(tokenizer, text, [(current.start, stop)])
        else:
            left, right = boundary
            yield current.ids[entered:left]
            current, entered = following, right
    yield current.ids[entered:]


def _windows(tokenizer: Tokenizer, text: str) -> Iterator[_Window]:
    starts = range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP)
    spans = [(start, min(start + WINDOW, len(text))) for start in starts]
    for i in range(0, len(spans), _AT_ONCE):
        yield from _read(tokenizer, text, spans[i : i + _AT_ONCE])


def _read(tokenizer: Tokenizer, text: str, spans: list[tuple[int, int]]) -> list[_Window]:
    encodings = tokenizer.encode_batch([text[start:stop] for start, stop in spans], add_special_tokens=False)
    return [_Window(*span, encoding) for span, encoding in zip(spans, encodings, strict=True)]


def _boundary(one: _Window, other: _Window, within_words: bool) -> tuple[int, int] | None:
    """The first token of `other` to be used and its index in `one`; None if they do not agree in half of their overlap."""
    zone = one.stop - 3 * OVERLAP // 4, one.stop - OVERLAP // 4
    ours, theirs = one.between(*zone), other.between(*zone)
    if [one.token(i) for i in ours] != [other.token(i) for i in theirs]:
        return None
    shift = theirs.start - ours.start
    # Some characters are several tokens, each with the offsets of the character.
    apart = [i for i in ours[1:] if one.token(i - 1)[2] <= one.token(i)[1]]
    words = [i for i in apart if _differ(one.encoding, i) and _differ(other.encoding, i + shift)]
    chosen = words or (apart if within_words else [])
    return (chosen[len(chosen) // 2], chosen[len(chosen) // 2] + shift) if chosen else None


def _differ(encoding: Encoding, index: int) -> bool:
    """Whether a token begins another word than the one before it."""
    return encoding.token_to_word(index - 1) != encoding.token_to_word(index)
