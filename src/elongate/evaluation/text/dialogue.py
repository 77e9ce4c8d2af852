"""The next turn of a dialogue: ROUGE-L, and F1 over words as in question answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.evaluation.text import rouge, words
from elongate.evaluation.text.records import Record
from elongate.evaluation.text.shapes import DIALOGUE, LONGBENCH, MESSAGES, Shape
from elongate.evaluation.text.written import Written


@dataclass(frozen=True, kw_only=True)
class Dialogue(Written):
    """ROUGE-L and F1 of the next turn."""

    template: str = "{context}\n{question}"
    max_new_tokens: int = 64  # generated tokens of an answer at most, at least 1

    word: ClassVar[str] = "dialogue"
    shapes: ClassVar[tuple[Shape, ...]] = (LONGBENCH, DIALOGUE, MESSAGES)
    packages: ClassVar[dict[str, str]] = rouge.PACKAGES
    measures: ClassVar[tuple[str, ...]] = ("rougeL", "f1")

    def signatures(self, records: list[Record]) -> dict[str, str]:
        return {"rouge": rouge.rouge_signature({record.language for record in records}), "f1": "over SQuAD's words, best reference"}

    def score(self, prediction: str, record: Record) -> dict[str, float]:
        found = rouge.rouge(("rougeL",), prediction, record.references, record.language)
        return found | {"f1": max(words.f1(prediction, reference, record.language) for reference in record.references)}
