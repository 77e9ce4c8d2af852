"""Translation of whole texts: corpus BLEU and chrF by sacrebleu (Post 2018, arXiv:1804.08771), from 0 to 100.

Two parallel SQuAD files, such as XQuAD's in eleven languages, are read as pairs of paragraphs: the first file is translated into the
language of the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from elongate.errors import ConfigError
from elongate.evaluation.text.estimates import bootstrapped
from elongate.evaluation.text.records import Record, language_of, list_in, references_in, text_in
from elongate.evaluation.text.rows import Row
from elongate.evaluation.text.shapes import LONGBENCH, PAIR, TRANSLATION, Shape, records_of, squad_paragraphs
from elongate.evaluation.text.written import Written

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric


@dataclass(frozen=True, kw_only=True)
class Translation(Written):
    """BLEU and chrF of translations."""

    template: str = "{context}\n\nTranslation:"
    max_new_tokens: int = 256  # generated tokens of an answer at most, at least 1

    word: ClassVar[str] = "translation"
    shapes: ClassVar[tuple[Shape, ...]] = (PAIR, TRANSLATION, LONGBENCH)
    packages: ClassVar[dict[str, str]] = {"sacrebleu": "sacrebleu"}
    measures: ClassVar[tuple[str, ...]] = ("bleu", "chrf")

    def signatures(self, records: list[Record]) -> dict[str, str]:
        languages = {record.language for record in records}
        if len({_tokenization(language) for language in languages}) > 1:
            rule = f"contains translations into {' and '.join(sorted(languages))}, which BLEU splits into words differently"
            raise ConfigError(f"evaluation.{self.word}.path", self.path, rule, f"split it, or set evaluation.{self.word}.language")
        return {figure: str(metric.get_signature()) for figure, metric in _metrics(records).items()}

    def score(self, prediction: str, record: Record) -> dict[str, float]:
        import sacrebleu

        given = prediction, list(record.references)
        bleu = sacrebleu.sentence_bleu(*given, tokenize=_tokenization(record.language))
        return {"bleu": bleu.score, "chrf": sacrebleu.sentence_chrf(*given).score}

    def estimates(self, predictions: list[str], records: list[Record]) -> dict[str, tuple[float, float | None]]:
        return {figure: _corpus(metric, predictions) for figure, metric in _metrics(records).items()}

    def _read(self) -> Iterator[Record]:
        rows = list(self._rows())
        if any("data" in row for row, _ in rows):
            yield from _parallel(rows, self.path)
        else:
            for row, where in rows:
                yield from records_of(row, where, self.shapes)


def _tokenization(language: str) -> str:
    return "zh" if language == "zh" else "13a"


def _metrics(records: list[Record]) -> dict[str, Metric]:
    from sacrebleu.metrics import BLEU, CHRF

    most = max(len(record.references) for record in records)
    # sacrebleu takes one stream with the first reference of every sample, one with the second, and so on, and skips None.
    streams = [[record.references[i] if i < len(record.references) else None for record in records] for i in range(most)]
    return {"bleu": BLEU(tokenize=_tokenization(records[0].language), references=streams), "chrf": CHRF(references=streams)}


def _corpus(metric: Metric, predictions: list[str]) -> tuple[float, float | None]:
    """The figure from sums over the samples, as in `corpus_score`. The statistics of each sample are computed once for all draws."""
    sums = np.array(metric._extract_corpus_statistics(predictions, None))
    return bootstrapped(lambda numbers: metric._compute_score_from_stats(sums[numbers].sum(axis=0).tolist()).score, len(predictions))


def _parallel(rows: list[Row], path: Any) -> Iterator[Record]:
    if len(rows) != 2 or not all("data" in row for row, _ in rows):
        raise ConfigError("path", path, "must be two parallel files in SQuAD's format", "write it like {key}=[source.json,target.json]")
    sources, targets = (list(squad_paragraphs(row, where)) for row, where in rows)
    if len(sources) != len(targets):
        rule = f"are not parallel: they have {len(sources)} and {len(targets)} paragraphs"
        raise ConfigError("path", path, rule, "give {key} two files of the same paragraphs")
    for (source, where), (target, there) in zip(sources, targets, strict=True):
        ids = [[asked.get("id") for asked in list_in(paragraph, "qas", at)] for paragraph, at in ((source, where), (target, there))]
        if ids[0] != ids[1]:
            raise ConfigError("path", there, f"does not have the same questions as {where}", "give {key} two files of the same paragraphs")
        references = references_in(target, "context", there)
        yield Record(where, text_in(source, "context", where), "", references, language_of(references[0]))
