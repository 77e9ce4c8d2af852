"""Prompts: a filled-in template whose context is cut in the middle if the prompt would be too long.

As in LongBench (Bai et al. 2023, arXiv:2308.14508, section 4.1) the beginning and the end of the context are kept in equal parts, but
only the context is cut: the question is kept whole wherever it is. The cut is between tokens, so with a tokenizer of bytes it can split
a character.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import require
from elongate.evaluation.text.records import Record

FIELDS = ("context", "question", "classes")


@dataclass(frozen=True)
class Prompt:
    """The tokens that the model reads before it answers."""

    tokens: Int[np.ndarray, " prompt"]
    is_cut: bool  # the context was shortened


def check_template(template: str) -> None:
    """Raises `ConfigError` unless the template is valid and contains `{context}` exactly once."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as fault:
        names = [str(fault)]
    rule = f"must contain {{context}} once, and no other fields than {', '.join(FIELDS)}"
    fits = template.count("{context}") == 1 and set(names) <= set(FIELDS)
    require(fits, "template", repr(template), rule, "write it like {key}='{context} Answer:'")


def prompt_of(record: Record, template: str, room: int, tokenizer: Tokenizer) -> Prompt | int:
    """The prompt of at most `room` tokens. If no token of the context fits, returns instead the room needed for one."""
    before, after = _around(record, template)
    whole = tokenizer.begin(tokenizer.encode(before + record.context + after))
    if len(whole) <= room:
        return Prompt(whole, is_cut=False)
    head, context, tail = (tokenizer.encode(text) for text in (before, record.context, after))
    head = tokenizer.begin(head)
    left = room - len(head) - len(tail)
    if left < 1:
        return len(head) + len(tail) + 1
    kept = context if len(context) <= left else np.concatenate([context[: -(-left // 2)], context[len(context) - left // 2 :]])
    return Prompt(np.concatenate([head, kept, tail]), is_cut=len(kept) < len(context))


def _around(record: Record, template: str) -> tuple[str, str]:
    named = {"question": record.question, "classes": ", ".join(record.classes)}
    before, after = (part.format(**named) for part in template.split("{context}"))
    return before, after
