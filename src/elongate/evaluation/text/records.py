"""A record, the form into which every file of a task is read: a context, a question, and references."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from elongate.errors import ConfigError

HAN = re.compile(r"[\u4e00-\u9fff]")
LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Record:
    """One sample of a task."""

    id: str
    context: str
    question: str  # empty for tasks without questions
    references: tuple[str, ...]  # correct answers, at least one
    language: str  # of the references; zh is scored by characters, every other language by words
    classes: tuple[str, ...] = ()  # labels to choose from


def language_of(text: str) -> str:
    """zh if at least a fifth of the letters are Han and none are kana, else en. Chinese often contains names and terms in other scripts."""
    han, letters = len(HAN.findall(text)), len(LETTER.findall(text))
    return "zh" if han and han >= 0.2 * letters and not re.search(r"[\u3040-\u30ff]", text) else "en"


def drawn(records: list[Record], count: int, seed: int) -> list[Record]:
    """At most `count` random records in their original order. A larger count of the same seed includes the records of a smaller one."""
    order = sorted(range(len(records)), key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())
    return [records[i] for i in sorted(order[:count])]


def text_in(row: dict[str, Any], key: str, where: str) -> str:
    """The text under a key. Raises `ConfigError` that names the place `where`, as all functions that read rows do."""
    value = row.get(key)
    if not isinstance(value, str):
        raise ConfigError("path", where, f"its {key} is {_kind(value)}, not a text", "fix or remove it")
    # JSON can contain half a surrogate pair, which cannot be encoded in UTF-8.
    return value.encode("utf-8", errors="replace").decode("utf-8")


def texts_in(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The texts under a key, which contains a list of texts or a single text."""
    value = row.get(key)
    return tuple(text_in({key: item}, key, where) for item in (value if isinstance(value, list) else [value]))


def references_in(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The references under a key, without blank ones; at least one."""
    found = tuple(text for text in texts_in(row, key, where) if text.strip()) if row.get(key) else ()
    if not found:
        raise ConfigError("path", where, f"has no reference: its {key} is empty or missing", "fix or remove it")
    return found


def list_in(row: Any, key: str, where: str) -> list[Any]:
    """The list under a key."""
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, list):
        raise ConfigError("path", where, f"its {key} is {_kind(value)}, not a list", "fix or remove it")
    return value


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
