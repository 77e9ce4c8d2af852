"""What a model is given to read: a template filled in, its context cut in the middle where the whole is too long.

Beginning and end of the context are kept, in equal parts, as LongBench does (Bai et al. 2023, arXiv:2308.14508, section 4.1), but only
the context is cut: the question, which may stand anywhere, stays whole. It is cut in tokens, so with a tokenizer of bytes a character
at the cut can lose a part.
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
    tokens: Int[np.ndarray, " prompt"]
    is_cut: bool


def check_template(template: str) -> None:
    """Raises `ConfigError` unless it can be filled in and has one place for the context."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as fault:
        names = [str(fault)]
    rule = f"must have {{context}} once, and no other places than {', '.join(FIELDS)}"
    fits = template.count("{context}") == 1 and set(names) <= set(FIELDS)
    require(fits, "template", repr(template), rule, "write it like {key}='{context} Answer:'")


def prompt_of(record: Record, template: str, room: int, tokenizer: Tokenizer) -> Prompt | int:
    """At most `room` tokens; where not even one of the context would be left, the room that is needed for that."""
    before, after = _around(record, template)
    whole = tokenizer.encode(before + record.context + after)
    if len(whole) <= room:
        return Prompt(whole, is_cut=False)
    head, context, tail = (tokenizer.encode(text) for text in (before, record.context, after))
    left = room - len(head) - len(tail)
    if left < 1:
        return len(head) + len(tail) + 1
    kept = context if len(context) <= left else np.concatenate([context[: -(-left // 2)], context[len(context) - left // 2 :]])
    return Prompt(np.concatenate([head, kept, tail]), is_cut=len(kept) < len(context))


def _around(record: Record, template: str) -> tuple[str, str]:
    named = {"question": record.question, "classes": ", ".join(record.classes)}
    before, after = (part.format(**named) for part in template.split("{context}"))
    return before, after
