"""A prompt that fits is complete; of one that does not, only the middle of the context is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elongate.data.text import Text
from elongate.data.tokenizer.bpe import Bpe
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.evaluation.text.prompt import Prompt, prompt_of
from elongate.evaluation.text.records import Record

TEMPLATE = "Read: {context}\nQuestion: {question}\nAnswer ({classes}):"
RECORD = Record("0", "0123456789" * 4, "Which {context}?", ("a",), "en", ("a", "b"))
WHOLE = "Read: " + RECORD.context + "\nQuestion: Which {context}?\nAnswer (a, b):"
AROUND = len(WHOLE) - len(RECORD.context)


def given_to(record: Record, room: int, tokenizer: Tokenizer) -> Prompt:
    prompt = prompt_of(record, TEMPLATE, room, tokenizer)
    assert isinstance(prompt, Prompt)
    return prompt


def test_a_prompt_that_fits_is_the_filled_in_template() -> None:
    tokenizer = ByteTokenizer()
    for room in (len(WHOLE), len(WHOLE) + 5):
        prompt = given_to(RECORD, room, tokenizer)
        assert (tokenizer.decode(prompt.tokens), prompt.is_cut) == (WHOLE, False)


@given(st.integers(1, 39))
def test_the_middle_of_the_context_is_left_out_and_the_room_is_filled(left: int) -> None:
    tokenizer = ByteTokenizer()
    prompt = given_to(RECORD, AROUND + left, tokenizer)
    kept = RECORD.context[: (left + 1) // 2] + RECORD.context[40 - left // 2 :]
    assert (tokenizer.decode(prompt.tokens), prompt.is_cut) == (WHOLE.replace(RECORD.context, kept), True)
    assert len(prompt.tokens) == AROUND + left


def test_the_needed_room_is_returned_if_no_context_fits() -> None:
    assert prompt_of(RECORD, TEMPLATE, AROUND, ByteTokenizer()) == AROUND + 1
    assert prompt_of(RECORD, TEMPLATE, 3, ByteTokenizer()) == AROUND + 1
    assert isinstance(prompt_of(RECORD, TEMPLATE, AROUND + 1, ByteTokenizer()), Prompt)


def test_the_room_is_counted_in_tokens_of_the_tokenizer(text_folder: Path, tmp_path: Path) -> None:
    tokenizer = Bpe(vocab_size=300).fit(Text(path=str(text_folder), cache=str(tmp_path / "cache")))
    record = Record("0", (text_folder / "00.txt").read_text(), "Which line?", ("a",), "en")
    context = tokenizer.encode(record.context)
    assert len(context) < len(record.context)
    prompt = given_to(record, 100, tokenizer)
    assert (len(prompt.tokens), prompt.is_cut) == (100, True)
    head, tail = tokenizer.encode("Read: "), tokenizer.encode("\nQuestion: Which line?\nAnswer ():")
    left = 100 - len(head) - len(tail)
    kept = [context[: left - left // 2], context[len(context) - left // 2 :]]
    np.testing.assert_array_equal(prompt.tokens, np.concatenate([head, *kept, tail]))
