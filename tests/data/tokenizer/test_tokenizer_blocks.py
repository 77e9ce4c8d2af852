"""Long texts in blocks: every text and every tokenizer give exactly the tokens of the whole text."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.evaluation.tokenizer_families import FAMILIES, documents, opened, tokenizer_of, words_only
from tokenizers import Tokenizer as TokenizerFile
from tokenizers import pre_tokenizers

from elongate.data.tokenizer import blocks
from elongate.data.tokenizer.tokenizer import Tokenizer

WORDS = list(documents())


def lines(separator: str, count: int = 60) -> str:
    return separator.join(WORDS[:count])


def drawn(alphabet: str, count: int) -> str:
    return "".join(random.Random(0).choices(alphabet, k=count))


TEXTS = {
    "unix": lines("\n"),
    "crlf": lines("\r\n"),
    "paragraphs": lines("\n\n"),
    "wikitext": lines(" \n "),
    "one line": lines(" "),
    "tabs and runs of blanks": "".join(word + " \t\n"[i % 3] * (i % 9) for i, word in enumerate(lines(" ").split())),
    "a run of blanks longer than a window": WORDS[0] + " " * 3000 + WORDS[1] + "\n" * 700 + lines(" ", 9),
    "one word": drawn("abc", 4000),
    "one letter": "a" * 4000,
    "letters of many words": "".join(lines("").split()),
    "equally likely splits": "".join(random.Random(3).choices(["the", "1"], k=1500)),
    "digits": drawn("0123456789", 4000),
    "the same digit": "7" * 4001,
    "Chinese": drawn("的一是不了在人有我他这中大来上", 3000),
    "emoji": drawn("😀👩‍👧é", 3000),
    "random": drawn("ab 1.\n\r\t é中😀'", 6000),
    "random blanks": drawn(" \n\r\ta", 6000),
    "combining characters": drawn("e\u0301\u0308a ", 3000),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW", 512)
    monkeypatch.setattr(blocks, "OVERLAP", 128)


def metaspace_without_words() -> TokenizerFile:
    """Like ALBERT with text that is not split at spaces: the best path through the whole text."""
    unigram = FAMILIES["unigram"]
    assert unigram is not None
    tokenizer = unigram()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return tokenizer


def all_tokenizers() -> dict[str, Tokenizer]:
    more = {"words only": opened(words_only()), "unigram without words": opened(metaspace_without_words())}
    return {family: tokenizer_of(family) for family in FAMILIES} | more


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXTS)
def test_blocks_have_the_tokens_of_the_whole_text(kind: str) -> None:
    text = TEXTS[kind]
    for family, tokenizer in all_tokenizers().items():
        found = np.concatenate(list(tokenizer.encode_blocks(text)))
        assert found.tolist() == tokenizer.encode(text).tolist(), family


@pytest.mark.parametrize("kind", ["crlf", "paragraphs", "wikitext", "one line", "letters of many words", "one word"])
def test_no_window_grows_with_the_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks and single lines and, for BPE, words without end: what is read at once is bounded."""
    sizes: list[int] = []
    read = blocks._read

    def recorded(tokenizer: TokenizerFile, text: str, spans: list[tuple[int, int]]) -> list[blocks._Window]:
        sizes.extend(stop - start for start, stop in spans)
        return read(tokenizer, text, spans)

    monkeypatch.setattr(blocks, "_read", recorded)
    has_words = not kind.startswith(("letters", "one word"))
    for family in ("gpt2", "three digits", "superwords", "sentencepiece bpe", *(["unigram", "wordpiece"] if has_words else [])):
        list(tokenizer_of(family).encode_blocks(TEXTS[kind] * 4))
        assert max(sizes) <= 2 * blocks.WINDOW < len(TEXTS[kind] * 4) / 4, family


def test_added_tokens_at_the_edge_of_a_window_are_not_split() -> None:
    tokenizer = opened(FAMILIES["gpt2"]())  # type: ignore[misc]
    tokenizer._tokenizer.encode_special_tokens = False
    text = "<|endoftext|>".join(WORDS[:40])
    assert np.concatenate(list(tokenizer.encode_blocks(text))).tolist() == tokenizer.encode(text).tolist()
    assert tokenizer.encode(text).tolist().count(tokenizer.end_of_document) == 39
