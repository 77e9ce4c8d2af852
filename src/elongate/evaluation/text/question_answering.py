"""Question answering: SQuAD's exact match and F1 (words.py) against the best of several references, from 0 to 1.

A third figure, `named`, is RULER's score: whether the generated text contains any reference. It does not penalize a model that writes
more than the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.evaluation.measurement.matching import any_named
from elongate.evaluation.text import words
from elongate.evaluation.text.records import Record
from elongate.evaluation.text.shapes import LONGBENCH, SQUAD, SQUAD_ROW, Shape
from elongate.evaluation.text.written import Written


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Written):
    """Exact match and F1 of answers, and the share of texts that name the answer."""

    template: str = "{context}\n\nQuestion: {question}\nAnswer:"
    max_new_tokens: int = 32  # generated tokens of an answer at most, at least 1

    word: ClassVar[str] = "question_answering"
    shapes: ClassVar[tuple[Shape, ...]] = (LONGBENCH, SQUAD, SQUAD_ROW)
    packages: ClassVar[dict[str, str]] = {}
    measures: ClassVar[tuple[str, ...]] = ("exact_match", "f1", "named")

    def signatures(self, records: list[Record]) -> dict[str, str]:
        found = {record.language for record in records}
        how = [*(["SQuAD's words"] if found - {"zh"} else []), *(["MLQA's characters of Chinese"] if "zh" in found else [])]
        squad = f"over {' and '.join(how)}, best reference"
        return {"exact_match": squad, "f1": squad, "named": "any reference in it, as RULER's string_match_part"}

    def score(self, prediction: str, record: Record) -> dict[str, float]:
        pairs = [(prediction, reference, record.language) for reference in record.references]
        squad = {"exact_match": max(words.exact_match(*pair) for pair in pairs), "f1": max(words.f1(*pair) for pair in pairs)}
        return squad | {"named": any_named(prediction, record.references)}
