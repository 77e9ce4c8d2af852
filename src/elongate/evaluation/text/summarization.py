"""Summarization, including summaries that answer a query (QMSum, Zhong et al. 2021, arXiv:2104.05938): ROUGE-1, -2 and -L."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.evaluation.text import rouge
from elongate.evaluation.text.records import Record
from elongate.evaluation.text.shapes import HIGHLIGHTS, LONGBENCH, PAIR, QMSUM, SUMMARY, Shape
from elongate.evaluation.text.written import Written


@dataclass(frozen=True, kw_only=True)
class Summarization(Written):
    """ROUGE of summaries."""

    template: str = "{context}\n\n{question}\nSummary:"
    max_new_tokens: int = 128  # generated tokens of an answer at most, at least 1

    word: ClassVar[str] = "summarization"
    one_line: ClassVar[bool] = False
    shapes: ClassVar[tuple[Shape, ...]] = (LONGBENCH, QMSUM, PAIR, SUMMARY, HIGHLIGHTS)
    packages: ClassVar[dict[str, str]] = rouge.PACKAGES
    measures: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")

    def signatures(self, records: list[Record]) -> dict[str, str]:
        return {"rouge": rouge.rouge_signature({record.language for record in records})}

    def score(self, prediction: str, record: Record) -> dict[str, float]:
        return rouge.rouge(self.measures, prediction, record.references, record.language)
